#!/bin/bash
#SBATCH --job-name=count
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=count-%j.txt
#SBATCH --signal=B:USR1@120
#SBATCH --time=30
#HPCC image=docker://debian:12 compat
last=${1:-100}
state=$SLURM_SUBMIT_DIR/count.state

number=0
[ ! -e "$state" ] || read -r number <"$state"
echo "start ${SLURM_RESTART_COUNT:-0} from $number"

save() {
    echo "$number" >"$state.new" && mv "$state.new" "$state"
    echo "saved $number"
    exit "$1"
}
trap 'save 143' TERM
trap 'save 0' USR1

while [ "$number" -lt "$last" ]; do
    sleep 0.1
    number=$((number + 1))
done
rm -f "$state"
echo "counted to $number"
