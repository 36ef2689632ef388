"""Where and when tokens are: tables of sines, rotary angles, seconds (spec JavisDiT, section 3)."""

import math

import torch

BASE = 10000.0
PERIODS = 0.2, 40.0  # seconds; of the fastest and slowest turn of `time_angles`: finer than a latent of either stream, longer than a clip


def sinusoid(values: torch.Tensor, dim: int) -> torch.Tensor:
    """(...,) numbers -> (..., dim) float32: cosines of all frequencies, then sines; for times of diffusion and frame rates."""
    half = dim // 2
    turns = torch.exp(torch.arange(half, device=values.device, dtype=torch.float32) * (-math.log(BASE) / half))
    angles = values.float()[..., None] * turns
    return torch.cat([angles.cos(), angles.sin()], -1)


def line(places: torch.Tensor, dim: int) -> torch.Tensor:
    """(N,) places -> (N, dim) float32: sines of all frequencies, then cosines."""
    turns = 1 / BASE ** (torch.arange(0, dim, 2, device=places.device, dtype=torch.float32) / dim)
    angles = places.float()[:, None] * turns
    return torch.cat([angles.sin(), angles.cos()], -1)


def grid(rows: int, columns: int, dim: int, pixels: tuple[float, float], square: float, device=None) -> torch.Tensor:
    """(rows * columns, dim) code of a picture's patches, half of it for the column, half for the row.

    `pixels`: (height, width) of the picture; its size against `square`, and the number of patches, scale the places.
    """
    side, scale = round(math.sqrt(rows * columns)), math.sqrt(float(pixels[0]) * float(pixels[1])) / square
    across, down = (torch.arange(count, device=device, dtype=torch.float32) / scale * side / count for count in (columns, rows))
    return torch.cat([line(across.repeat(rows), dim // 2), line(down.repeat_interleave(columns), dim // 2)], -1)


# --- rotation ----------------------------------------------------------------------------------------------------


def turns(dim: int, device=None) -> torch.Tensor:
    """(dim / 2,) turns by a token, of the released layout's `rope.freqs`."""
    return 1 / BASE ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)


def token_angles(count: int, dim: int, device=None) -> torch.Tensor:
    """(count, dim / 2) angles by the number of a token."""
    return torch.arange(count, device=device, dtype=torch.float32)[:, None] * turns(dim, device)


def time_angles(seconds: torch.Tensor, dim: int) -> torch.Tensor:
    """(..., N) seconds -> (..., N, dim / 2) angles; periods lie evenly, on a scale of logarithms, between :data:`PERIODS`."""
    half = dim // 2
    share = torch.arange(half, device=seconds.device, dtype=torch.float32) / max(half - 1, 1)
    return seconds.float()[..., None] * (2 * math.pi / (PERIODS[0] * (PERIODS[1] / PERIODS[0]) ** share))


def rotated(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """(..., N, dim) with each pair of neighbours (2i, 2i + 1) turned by its angle, computed in single precision.

    An odd last number stays as it is: angles are (..., N, dim // 2).
    """
    rest = x[..., 2 * angles.shape[-1] :]
    first, second = x[..., : 2 * angles.shape[-1]].float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    made = torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2).to(x.dtype)
    return torch.cat([made, rest], -1) if rest.shape[-1] else made


# --- seconds -------------------------------------------------------------------------------------------------------


def video_seconds(latents: int, fps: torch.Tensor, chunk: tuple[int, int]) -> torch.Tensor:
    """(B, latents) seconds of the middles of what each latent frame shows, at `fps` (B,) pictures a second.

    `chunk`: (pictures, latents) that the codec maps to each other.  It pads at the front, so that the first latent of a
    chunk may show less than the others: of (17, 5) one picture, the others four.
    """
    pictures, made = chunk
    each = -(-pictures // made)
    number = torch.arange(latents, device=fps.device)
    place = number % made
    last = pictures - (made - 1 - place) * each
    middle = number // made * pictures + ((last - each).clamp(min=0) + last - 1) / 2
    return middle / fps.float()[:, None]


def sound_seconds(tokens: int, step: float, device=None) -> torch.Tensor:
    """(1, tokens) seconds of the middles of sound tokens of `step` seconds each."""
    return ((torch.arange(tokens, device=device, dtype=torch.float32) + 0.5) * step)[None]
