#!/usr/bin/env bash
# From nothing to a model that hears what it sees: bash workflows/demo.sh
# The data chain alone, on the clips of a folder of yours:  bash workflows/demo.sh FOLDER
#
# SEED (0), CLIPS (1000), STEPS, SET (of the training: KEY=VALUE) and OUT (demo) may be set; the bars are for the defaults.
set -euo pipefail
out=${OUT:-demo} seed=${SEED:-0}
mkdir -p "$out"

chain() {
    avtools mkmeta scan video "$1" |
        avtools probe --fmin 10 |
        avtools uni-fps --fps 24 -d "$out/fps24" |
        avtools extract-audio --rate 16000 -d "$out/wav16"
}

if [ $# -gt 0 ]; then
    echo "== scan | probe | uni-fps | extract-audio"
    chain "$1" > "$out/table.csv"
    echo "the table:  $out/table.csv"
    echo "the clips:  $out/fps24/ (24 frames per second, sound in sync)"
    echo "the sound:  $out/wav16/ (16 kHz, as long as the picture)"
    exit
fi

echo "== synth: clips of 2 s in which coloured things act and sound; their events are known exactly"
avtools synth -n "${CLIPS:-1000}" --seconds 2 --fps 24 --seed "$seed" -d "$out/synth" -o "$out/synth.csv"

echo "== scan | probe | uni-fps | extract-audio | join | split"
chain "$out/synth/clips" |
    avtools mkmeta join table --with "$out/synth.csv" --on id --take class,events,event_times,text |
    avtools mkmeta split --ratio train=0.88,valid=0.02,test=0.1 --into "$out/split" -o "$out/table.csv"

echo "== train: sound from pictures, preset tiny, on this CPU (some minutes; every line is one JSON object)"
avtools train vta-ldm "$out/split/train.csv" --preset tiny --valid "$out/split/valid.csv" --seed "$seed" \
    ${STEPS:+--max-steps "$STEPS"} ${SET:+--set "$SET"} -d "$out/run"

echo "== sample: sound for clips that were held out, put onto their pictures"
avtools sample vta-ldm "$out/split/test.csv" --weights "$out/run" --mux --seed "$seed" -d "$out/made" -o "$out/made.csv"

echo "== score: the sound made for each clip, against its events and its motion"
avtools score onset-f1,av-align,loudness "$out/made.csv" --summary "$out/true.json" -o "$out/scored.csv"
echo "== score of a control: sounds exchanged among clips of the same class with as many events"
avtools score onset-f1,av-align "$out/made.csv" --exchange class,events --summary "$out/exchanged.json" -o "$out/exchanged.csv"

python3 - "$out" <<'END'
import json, sys

out = sys.argv[1]
true, control = (json.load(open(f"{out}/{name}.json"))["metrics"] for name in ("true", "exchanged"))
print(f"\nheld-out clips       true pairs   exchanged")
for name in ("onset_f1", "av_align"):
    print(f"{name:18} {true[name]['mean']:12.3f} {control[name]['mean']:11.3f}")
print(f"\nlook and listen:  {out}/made/ (.mp4: the clips with their made sound; .wav: the sound alone)")
print(f"as they were:     {out}/fps24/")
print(f"the model:        {out}/run (avtools sample vta-ldm --weights {out}/run CLIP.mp4 -d somewhere --mux)")
good = true["onset_f1"]["mean"] >= 0.85 and control["onset_f1"]["mean"] <= 0.45
print("\nonset-F1 at least 0.85 for true pairs and at most 0.45 for exchanged ones: " + ("yes" if good else "NO"))
sys.exit(not good)
END
