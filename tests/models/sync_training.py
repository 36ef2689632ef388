"""A small Synchformer trained on generated clips, as the released one was: first the encoders, then, on their frozen
vectors, what decides; minutes on two cores."""

import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from avtools.models.judges import synchformer
from avtools.models.judges.synchformer import PICTURE_STEP, PICTURES, RATE, SAMPLES

SIZE = synchformer.Size(width=64, picture_layers=1, sound_layers=1, layers=2, picture=32, patch=8, segments=7)
TICK = 0.04  # seconds between the beginnings of segments that are encoded; offsets and steps are multiples of it
SECONDS = 10
EVENTS = 8  # of a clip, at least: where nothing happens, nothing is late
REACH = 1.0  # seconds: the largest offset
MOST = round(REACH / 0.2)  # the same in classes
OPTIONS = {"seconds": SECONDS, "fps": 25, "size": (64, 48), "rate": RATE, "seed": 11, "objects": 1}


def clip(index: int, options=OPTIONS):
    """Pictures (T, 32, 32, 3) uint8 and sound (n,) of a generated clip, and when its events are, seconds."""
    from PIL import Image

    from avtools.metrics.pictures import Pictures
    from avtools.synth import picture, scene, sound

    made = scene.clip_of(options, index)
    fit = Pictures(size=(SIZE.picture, SIZE.picture)).fitted
    width, height = made.size
    frames = []
    for planes in picture.frames(made):
        luma, chroma = planes[:height], planes[height:].reshape(2, height // 2, width // 2).repeat(2, 1).repeat(2, 2)
        frames.append(fit(np.asarray(Image.fromarray(np.stack([luma, *chroma], -1), "YCbCr").convert("RGB"))))
    mono = sound.render(made).mixture.mean(1, dtype=np.float32) / 32768
    times = [onset / RATE for thing in made.things for onset in thing.onsets]
    return np.stack(frames), mono, times


class Clips:
    """The first `count` clips of `OPTIONS` that have events enough: (N, T, 32, 32, 3), (N, n) and when each begins to sound."""

    def __init__(self, count: int):
        from avtools.synth.scene import clip_of

        busy = (k for k in itertools.count() if sum(len(thing.onsets) for thing in clip_of(OPTIONS, k).things) >= EVENTS)
        pictures, sounds, self.times = zip(*(clip(k) for k in itertools.islice(busy, count)), strict=True)
        self.pictures, self.sounds = torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(sounds))
        self.ticks = self.pictures.shape[1] - PICTURES  # from which a segment may begin

    def seen(self, which, begins):
        """Segments (N, 16, 3, 32, 32) of clips that begin at these ticks."""
        some = torch.stack([self.pictures[k, t : t + PICTURES] for k, t in zip(which.tolist(), begins.tolist(), strict=True)])
        return some.permute(0, 1, 4, 2, 3).float() / 127.5 - 1

    def heard(self, which, begins):
        """Log-mel (N, 66, 128) of the same."""
        step = round(TICK * RATE)
        some = torch.stack([self.sounds[k, t * step : t * step + SAMPLES] for k, t in zip(which.tolist(), begins.tolist(), strict=True)])
        return synchformer.log_mel(some).transpose(1, 2)

    def truth(self, which, begins, moments: int, length: float):
        """(N, moments): whether something begins to sound in each moment of `length` seconds."""
        found = torch.zeros(len(which), moments)
        for row, (k, t) in enumerate(zip(which.tolist(), begins.tolist(), strict=True)):
            for time in self.times[k]:
                place = (time - t * TICK) / length
                if 0 <= place < moments:
                    found[row, int(place)] = 1
        return found


def train(clips: Clips, first: int, second: int, seed: int = 0, report=print) -> synchformer.Synchformer:
    """`first` steps of the encoders, `second` of the decision."""
    torch.manual_seed(seed)
    net = synchformer.Synchformer(SIZE)
    train_encoders(net, clips, first, seed, report)
    train_decision(net, *vectors(net, clips), second, seed, report)
    return net.eval().requires_grad_(False)


def train_encoders(net, clips: Clips, steps: int, seed: int, report) -> None:
    """By a question that both can answer: does something begin in this moment?"""
    draw, ticks = torch.Generator().manual_seed(seed), clips.ticks
    heads = nn.ModuleList(nn.Linear(SIZE.width, 1) for _ in range(2))
    optimiser = torch.optim.AdamW([*(p for name, p in net.named_parameters() if not name.startswith("transformer.")), *heads.parameters()], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps, pct_start=0.1)
    weight = torch.tensor(4.0)  # for it is rare
    for step in range(steps):
        which, begins = (torch.randint(most, (32,), generator=draw) for most in (len(clips.times), ticks))
        sides = (net.see(clips.seen(which, begins)), SIZE.moments, 0.08), (net.hear(clips.heard(which, begins)), SIZE.heard[1], 0.1)
        losses = [
            functional.binary_cross_entropy_with_logits(head(found)[..., 0], clips.truth(which, begins, moments, length), pos_weight=weight)
            for head, (found, moments, length) in zip(heads, sides, strict=True)
        ]
        optimiser.zero_grad()
        sum(losses).backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            report(f"encoders {step + 1}: pictures {losses[0].item():.3f}, sound {losses[1].item():.3f}")


@torch.no_grad()
def vectors(net, clips: Clips):
    """What frozen encoders make of the segments from every tick on, (N, ticks, 8, D) and (N, ticks, 6, D), and where something
    begins to sound, (N, ticks, 6)."""
    every, parts = torch.arange(clips.ticks), []
    for k in range(len(clips.times)):
        which = torch.full_like(every, k)
        parts.append((net.see(clips.seen(which, every)), net.hear(clips.heard(which, every)), clips.truth(which, every, SIZE.heard[1], 0.1)))
    return [torch.stack(part) for part in zip(*parts, strict=True)]


def train_decision(net, seen, heard, loud, steps: int, seed: int, report, batch: int = 48) -> None:
    """By the offset, which each moment at which something begins to sound has to tell, too."""
    _place(net)
    inner = {}
    hook = net.transformer.blocks.register_forward_hook(lambda _, __, tokens: inner.update(tokens=tokens))
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.transformer.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps, pct_start=0.1)
    numbers, grid = PICTURE_STEP * torch.arange(SIZE.segments), synchformer.grid()
    window = seen.shape[1] - PICTURE_STEP * (SIZE.segments - 1)  # where the first one may begin
    errors = []
    for step in range(steps):
        which, shift = torch.randint(len(seen), (batch,), generator=draw), torch.randint(-MOST, MOST + 1, (batch,), generator=draw)
        classes, shift = shift + SIZE.classes // 2, 5 * shift
        at = ((torch.rand(batch, generator=draw) * (window - shift.abs())).long() - shift.clamp(max=0))[:, None] + numbers
        at, then = (which[:, None], at), (which[:, None], at + shift[:, None])
        logits = net.decide(seen[at], heard[then])
        each = net.transformer.off_head(net.transformer.ln_f(inner["tokens"][:, -SIZE.segments * SIZE.heard[1] :]))
        nearby = torch.softmax(-(((grid - grid[classes, None]) / 0.15) ** 2), 1)  # neighbours are half right
        loss = functional.cross_entropy(logits, nearby)
        weights, each = loud[then].flatten(1), functional.cross_entropy(each.transpose(1, 2), nearby[..., None].expand(-1, -1, each.shape[1]), reduction="none")
        loss = loss + (each * weights).sum() / weights.sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.transformer.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        errors.append((grid[logits.argmax(1)] - grid[classes]).abs().mean().item())
        if step % 100 == 99:
            report(f"decision {step + 1}: loss {loss.item():.3f}, each {((each * weights).sum() / weights.sum()).item():.3f}, mean error {sum(errors[-100:]) / 100:.2f} s")
    hook.remove()


def _place(net) -> None:
    """Begin with attention by time: places that picture and sound tell alike, and heads in the first layer each of which
    looks at what is by another time later or earlier.  All of it is trained."""
    segments = torch.arange(SIZE.segments)[:, None] * 0.32
    seen, heard = (segments + (torch.arange(count) + 0.5) * length for count, length in ((SIZE.moments, 0.08), (SIZE.heard[1], 0.1)))
    times = torch.cat([torch.zeros(1), seen.flatten(), torch.zeros(1), heard.flatten()])
    heads = synchformer.HEADS
    pairs = SIZE.width // heads // 2
    rates = 2 * torch.pi / (0.5 * 2.2 ** torch.arange(pairs))  # periods from 0.5 s, of each head alike
    places = torch.polar(torch.ones(()), times[:, None] * rates)
    net.transformer.pos_emb.pos_emb.data.copy_(torch.view_as_real(places).flatten(1).repeat(1, heads)[None])
    for norm in (net.transformer.vis_in_lnorm, net.transformer.aud_in_lnorm):
        norm.weight.data.fill_(0.3)  # so that places outweigh what is there
    attention, sharp = net.transformer.blocks[0].attn, 2.5
    turns = torch.polar(torch.tensor(sharp), torch.linspace(-REACH, REACH, heads)[:, None] * rates).flatten()
    net_turn = torch.zeros(SIZE.width, SIZE.width)
    for k, turn in enumerate(turns.tolist()):
        net_turn[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = torch.tensor([[turn.real, -turn.imag], [turn.imag, turn.real]])
    attention.query.weight.data.copy_(net_turn)
    attention.key.weight.data.copy_(torch.eye(SIZE.width))
    nn.init.orthogonal_(attention.value.weight, 2.0)  # what is found there is not lost beside the rest
    nn.init.orthogonal_(attention.proj.weight)

