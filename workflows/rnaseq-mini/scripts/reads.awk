# Reads of a sample, as a sequencer writes them (FASTQ): awk -f reads.awk GENOME GENES, with `sample`, `reads`, `seed`.
# In samples named treated… gene2 and gene5 are four times as active, gene7 a fourth. One base in a hundred is wrong,
# some reads are bad at their end, and some are shorter than the machine reads, so that an adapter follows.

function random() { seed = (seed * 16807) % 2147483647; return seed / 2147483647 }

FILENAME ~ /\.fa$/ { if (!/^>/) sequence = sequence $0; next }
{
    gene = $10; gsub(/[";]/, "", gene)
    starts[++genes] = $4; sizes[genes] = $5 - $4 + 1
    activity = 1 + genes % 3
    if (sample ~ /^treated/ && (gene == "gene2" || gene == "gene5")) activity *= 4
    if (sample ~ /^treated/ && gene == "gene7") activity /= 4
    total += activity * sizes[genes]
    until[genes] = total
}
END {
    seed *= 7919
    for (i = 0; i < 20; i++) random()
    adapter = "AGATCGGAAGAGCACACGTCTGAACTCCAGTCA"
    for (read = 1; read <= reads; read++) {
        where = random() * total
        for (gene = 1; until[gene] < where; gene++);
        fragment = random() < 0.1 ? 80 : 100
        at = starts[gene] + int(random() * (sizes[gene] - fragment))
        text = substr(sequence, at, fragment) substr(adapter, 1, 100 - fragment)
        bad = random() < 0.05 ? 60 : 101
        out = quality = ""
        for (base = 1; base <= 100; base++) {
            wrong = random() < (base >= bad ? 0.3 : 0.01)
            out = out (wrong ? substr("ACGT", 1 + int(4 * random()), 1) : substr(text, base, 1))
            quality = quality (base >= bad ? "#" : "I")
        }
        printf "@%s.%d\n%s\n+\n%s\n", sample, read, out, quality
    }
}
