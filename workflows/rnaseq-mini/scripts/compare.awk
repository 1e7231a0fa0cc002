# featureCounts' table -> reads of each gene, comparable among samples, in `matrix`; treated against control, on
# stdout. Counts are divided by their sample's size factor, the median of its ratios to the genes' geometric means, so
# that a few very active genes do not make the others look idle.

BEGIN { FS = OFS = "\t" }
/^#/ { next }
!columns {
    columns = NF
    for (i = 7; i <= NF; i++) { sub(/.*\//, "", $i); sub(/\.bam$/, "", $i); samples[i] = $i }
    next
}
{
    genes[++count] = $1
    means[count] = 0
    for (i = 7; i <= NF; i++) { reads[count, i] = $i; means[count] += log($i + 1) / (NF - 6) }
}
END {
    for (i = 7; i <= columns; i++) {
        for (gene = 1; gene <= count; gene++) ratios[gene] = log(reads[gene, i] + 1) - means[gene]
        factors[i] = exp(median(ratios, count))
    }
    line = "gene"; for (i = 7; i <= columns; i++) line = line OFS samples[i]
    print line > matrix
    print "gene", "control", "treated", "log2 of their ratio"
    for (gene = 1; gene <= count; gene++) {
        line = genes[gene]; split("", sum); split("", n)
        for (i = 7; i <= columns; i++) {
            value = reads[gene, i] / factors[i]
            line = line OFS sprintf("%.1f", value)
            kind = samples[i] ~ /^treated/ ? "treated" : "control"; sum[kind] += value; n[kind]++
        }
        print line > matrix
        control = sum["control"] / n["control"]; treated = sum["treated"] / n["treated"]
        printf "%s\t%.1f\t%.1f\t%.2f\n", genes[gene], control, treated, log((treated + 1) / (control + 1)) / log(2)
    }
}

function median(values, n,   i, k, sorted) {
    for (i = 1; i <= n; i++) {
        for (k = i; k > 1 && sorted[k - 1] > values[i]; k--) sorted[k] = sorted[k - 1]
        sorted[k] = values[i]
    }
    return (sorted[int((n + 1) / 2)] + sorted[int(n / 2) + 1]) / 2
}
