"""Materials of manufactured or polished things: stone, cloth, painted metal, pottery (see `materials`)."""

from dataclasses import dataclass

import torch

from procedural.tracer.materials import Appearance, Color, Texels, column, grain_of, mix
from procedural.tracer.noise import cells, fbm, random_at, smoothstep


@dataclass(frozen=True)
class Marble:
    """Polished stone with warped veins and crystals."""

    color: Color = (0.72, 0.70, 0.66)
    vein: Color = (0.25, 0.24, 0.26)
    scale: float = 3.0
    gloss: float = 0.7
    seed: int = 0

    def appearance(self, texels: Texels) -> Appearance:
        """Veins warped by noise over a polished ground, with crystals."""
        u, v, footprint = texels
        warp = fbm(u, v, self.scale, footprint, octaves=9, gain=0.55, seed=self.seed)
        second = fbm(u, v, self.scale * 2.3, footprint, octaves=9, gain=0.6, seed=self.seed + 1)
        s = self.scale * (u * 0.8 + v * 0.6) * 2.2 + 2.4 * warp.value
        vein = (1 - torch.sin(s + 1.3 * second.value).abs()).clamp(min=0) ** 4
        fine = (1 - (second.value * 4).abs()).clamp(min=0) ** 3
        crystal = grain_of(texels, self.seed, 150.0)
        t = (0.9 * vein + 0.4 * fine + 0.25 * warp.value).clamp(0, 1)
        albedo = mix(column(self.color, u), column(self.vein, u), t) * (1 + 0.22 * crystal.value)
        return Appearance(
            albedo.clamp_(0.01, 0.95), 0.0003 * crystal.du, 0.0003 * crystal.dv, torch.full_like(u, self.gloss)
        )


@dataclass(frozen=True)
class Granite:
    """Speckled stone or terrazzo: chips of three colours at two sizes in a grained ground."""

    color: Color = (0.45, 0.42, 0.40)
    chip: Color = (0.75, 0.70, 0.64)
    dark: Color = (0.07, 0.07, 0.08)
    size: float = 0.02
    gloss: float = 0.3
    seed: int = 0

    def appearance(self, texels: Texels) -> Appearance:
        """Chips of two sizes over a grained ground."""
        u, v, footprint = texels
        coarse = cells(u / self.size, v / self.size, 0.95, self.seed)
        fine = cells(u / self.size * 3.1, v / self.size * 3.1, 0.95, self.seed + 1)
        cloud = fbm(u, v, 3.0, footprint, octaves=8, gain=0.6, seed=self.seed)
        grain = grain_of(texels, self.seed, 140.0)
        known = (2 - 4 * footprint / self.size).clamp(0, 1)
        known_fine = (2 - 12 * footprint / self.size).clamp(0, 1)
        light = (coarse.identity > 0.62) * smoothstep(0.02, 0.10, coarse.border)
        black = (fine.identity > 0.72) * smoothstep(0.02, 0.12, fine.border)
        albedo = column(self.color, u) * (1 + 0.4 * cloud.value + 0.3 * grain.value)
        albedo = mix(albedo, column(self.chip, u) * (1 + 0.3 * grain.value), 0.3 + (light * 0.9 - 0.3) * known)
        albedo = mix(albedo, column(self.dark, u), 0.22 + (black * 0.85 - 0.22) * known_fine)
        gloss = torch.full_like(u, self.gloss)
        return Appearance(albedo.clamp_(0.01, 0.95), 0.0006 * grain.du, 0.0006 * grain.dv, gloss)


@dataclass(frozen=True)
class Cloth:
    """Plain weave with a plaid or stripes, slubs and folds in the light."""

    color: Color = (0.50, 0.12, 0.10)
    other: Color = (0.70, 0.64, 0.50)
    stripe: float = 0.11
    thread: float = 0.004
    folds: float = 0.4
    seed: int = 0

    def appearance(self, texels: Texels) -> Appearance:
        """Threads and their relief, tinted by the plaid or stripes."""
        u, v, footprint = texels
        folds = fbm(u, v, 3.5, footprint, octaves=4, gain=0.45, seed=self.seed)
        slubs = fbm(u, v, 30.0, footprint, octaves=6, gain=0.75, seed=self.seed + 1)
        a, b = (u + 0.004 * folds.value) / self.stripe, (v + 0.004 * folds.value) / self.stripe
        band_u = random_at((a * 3).floor(), torch.zeros_like(a), self.seed)
        band_v = random_at((b * 3).floor(), torch.ones_like(b), self.seed)
        x, y = u / self.thread, v / self.thread
        over = (x.floor() + y.floor()) % 2
        visible = (1.5 - 2.5 * footprint / self.thread).clamp(0, 1)
        warp_shape = torch.sin(torch.pi * (x - x.floor()))
        weft_shape = torch.sin(torch.pi * (y - y.floor()))
        band = band_u * 0.5 + band_v * 0.5 + (band_u - band_v) * (over - 0.5) * visible
        shade = torch.where(over > 0.5, warp_shape, weft_shape)
        albedo = mix(column(self.color, u), column(self.other, u), smoothstep(0.25, 0.75, band))
        albedo = albedo * (1 + (0.75 * (shade - 0.64)) * visible) * (1 + 0.3 * slubs.value)
        du = 0.06 * self.folds * folds.du * 0.3 + visible * 0.25 * torch.cos(torch.pi * (x - x.floor())) * over
        dv = 0.06 * self.folds * folds.dv * 0.3 + visible * 0.25 * torch.cos(torch.pi * (y - y.floor())) * (1 - over)
        return Appearance(albedo.clamp_(0.01, 0.95), du, dv, torch.full_like(u, 0.02))


@dataclass(frozen=True)
class Metal:
    """Painted sheet with chips, rust from beneath, scratches and streaks."""

    color: Color = (0.10, 0.24, 0.30)
    rust: Color = (0.28, 0.11, 0.04)
    wear: float = 0.5
    gloss: float = 0.5
    seed: int = 0

    def appearance(self, texels: Texels) -> Appearance:
        """Paint, with rust where it is chipped, and scratches."""
        u, v, footprint = texels
        decay = fbm(u, v, 3.0, footprint, octaves=10, gain=0.66, seed=self.seed)
        streaks = fbm(u, v, 14.0, footprint, octaves=5, gain=0.7, stretch=0.08, seed=self.seed + 1)
        scratch = fbm(
            u * 0.8 + v * 0.6, v * 0.8 - u * 0.6, 1.0, footprint, octaves=5, gain=0.9, stretch=90.0, seed=self.seed + 2
        )
        grain = grain_of(texels, self.seed, 120.0)
        edge = 0.75 - 0.7 * self.wear
        bare = smoothstep(edge - 0.04, edge + 0.04, decay.value + 0.12 * grain.value)
        thin = smoothstep(0.40, 0.55, scratch.value) * 0.7
        paint = column(self.color, u) * (1 + 0.18 * streaks.value + 0.12 * grain.value + 0.12 * decay.value)
        paint = mix(paint, column((0.55, 0.53, 0.50), u), thin)
        rust = column(self.rust, u) * (1 + 0.9 * grain.value + 0.5 * decay.value)
        stain = smoothstep(edge - 0.35, edge + 0.05, decay.value + 0.4 * streaks.value) * 0.4
        albedo = mix(mix(paint, column(self.rust, u), stain), rust, bare)
        du, dv = 0.0015 * grain.du * (0.3 + bare), 0.0015 * grain.dv * (0.3 + bare)
        return Appearance(albedo.clamp_(0.005, 0.95), du, dv, self.gloss * (1 - 0.9 * bare))


@dataclass(frozen=True)
class Glaze:
    """Glazed pottery: bands and a running motif around the body, crackle and specks."""

    color: Color = (0.55, 0.52, 0.44)
    band: Color = (0.05, 0.13, 0.30)
    pitch: float = 0.16
    motif: float = 0.05
    gloss: float = 0.9
    seed: int = 0

    def appearance(self, texels: Texels) -> Appearance:
        """Bands and motif under a glossy glaze with crackle."""
        u, v, footprint = texels
        hand = fbm(u, v, 12.0, footprint, octaves=8, gain=0.6, seed=self.seed)
        w = v + 0.004 * hand.value
        row = (w / self.pitch).floor()
        y = (w / self.pitch - row - 0.5) * self.pitch
        style = random_at(row, row, self.seed)
        x = u / self.motif + 0.1 * hand.value
        x = (x - x.floor() - 0.5) * self.motif
        soft = 0.0012 + footprint
        lines = smoothstep(-soft, soft, 0.006 - (y.abs() - 0.40 * self.pitch).abs())
        wave = y - 0.22 * self.pitch * torch.sin(2 * torch.pi * x / self.motif)
        dots = 0.30 * self.motif - torch.sqrt(x * x + y * y)
        rhomb = 0.45 * self.motif - x.abs() - 0.8 * y.abs()
        figure = torch.where(style < 0.35, 0.005 - wave.abs(), torch.where(style < 0.7, dots, rhomb))
        figure = torch.maximum(lines, smoothstep(-soft, soft, figure))
        specks = smoothstep(0.42, 0.60, fbm(u, v, 55.0, footprint, octaves=4, gain=0.8, seed=self.seed + 2).value)
        crack = cells(u * 60, v * 60, 0.9, self.seed)
        crackle = (1 - smoothstep(0.0, 0.05, crack.border)) * (1.5 - 150 * footprint).clamp(0, 1)
        ink = column(self.band, u) * (1.2 + 0.8 * hand.value)
        albedo = mix(column(self.color, u) * (1 + 0.18 * hand.value), ink, figure * (0.85 + 0.15 * hand.value))
        albedo = albedo * (1 - 0.5 * specks) * (1 - 0.45 * crackle)
        return Appearance(albedo.clamp_(0.005, 0.95), 0.002 * hand.du, 0.002 * hand.dv, torch.full_like(u, self.gloss))
