#!/bin/sh
# The data chain on synthetic clips, or on the clips of a folder of yours: sh workflows/demo.sh [FOLDER]
set -eu
out=demo
mkdir -p $out

if [ $# -gt 0 ]; then
    clips=$1
else
    clips=$out/synth/clips
    echo "== making 8 clips with exact ground truth"
    avtools synth -n 8 --fps 25 -d $out/synth -o $out/synth.csv
fi

chain() {
    avtools mkmeta scan video "$clips" |
        avtools probe --fmin 10 |
        avtools uni-fps --fps 24 -d $out/fps24 |
        avtools extract-audio --rate 16000 -d $out/wav16 -o $out/table.csv
}

echo "== scan | probe | uni-fps | extract-audio"
chain
echo "== the same again: nothing is made twice"
chain
echo "== done"
echo "the table:  $out/table.csv"
echo "the clips:  $out/fps24/ (24 frames per second, sound in sync)"
echo "the sound:  $out/wav16/ (16 kHz, as long as the picture)"
