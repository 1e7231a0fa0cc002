# What fastp found, one line a sample, from its JSON files.

BEGIN { print "sample\treads\tkept\tshare of bases with quality 30 or more" }
FNR == 1 {
    finish()
    sample = FILENAME; sub(/.*\//, "", sample); sub(/\.json$/, "", sample)
    part = ""; split("", found)
}
/"before_filtering"/ { part = "before" }
/"after_filtering"/ { part = "after" }
/"filtering_result"/ { part = "" }
part && match($0, /"(total_reads|q30_rate)": *[0-9.]+/) {
    split(substr($0, RSTART + 1, RLENGTH - 1), pair, /": */)
    if (!((part, pair[1]) in found)) found[part, pair[1]] = pair[2]
}
END { finish() }

function finish() {
    if (!sample) return
    printf "%s\t%d\t", sample, found["before", "total_reads"]
    printf "%d\t%.3f\n", found["after", "total_reads"], found["after", "q30_rate"]
}
