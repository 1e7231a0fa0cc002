# A chromosome with nine genes: its sequence (FASTA) in `fasta`, where the genes are (GTF) in `genes`.
# The same on each machine: no rand(), whose numbers differ between versions of awk.

function random() { seed = (seed * 16807) % 2147483647; return seed / 2147483647 }
function bases(n,   text) {
    for (text = ""; n > 0; n--) text = text substr("ACGT", 1 + int(4 * random()), 1)
    return text
}

BEGIN {
    seed = 20250101
    for (gene = 1; gene <= 9; gene++) {
        sequence = sequence bases(300)
        size = 600 + int(900 * random())
        start = length(sequence) + 1
        sequence = sequence bases(size)
        printf "chr1\tmini\texon\t%d\t%d\t.\t+\t.\tgene_id \"gene%d\";\n", start, start + size - 1, gene > genes
    }
    sequence = sequence bases(300)
    print ">chr1" > fasta
    for (at = 1; at <= length(sequence); at += 60) print substr(sequence, at, 60) > fasta
}
