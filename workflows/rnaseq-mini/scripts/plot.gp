# Bars of the reads of each gene, one for each sample: `table` -> `picture`.

set terminal pngcairo size 900,420 font "DejaVu Sans,10"
set output picture
set style data histogram
set style fill solid 0.8 border -1
set boxwidth 0.9
set key top right
set ylabel "reads, comparable among samples"
set yrange [0:*]
set grid ytics
set datafile separator tab
plot for [column = 2:samples + 1] table using column:xtic(1) title columnheader(column) noenhanced
