r"""Scores Gaussian scenes at cameras that come closer than their photographs, against the truth.

    python benchmarks/walk_in.py truth out/truth --targets 0.5,0.4 0.27,0.45    # the example, from nearer by
    python benchmarks/walk_in.py near photos/base out/near --of nearest --from a b c --zoom 2
    python benchmarks/walk_in.py score out/truth out/door out/door-refined

`truth` renders the example's own scene from positions between its two photographs, 3, 9 and 27 times nearer to what
they show at the targets; some minutes. `near` takes a photograph of a posed scene that was taken from nearer by:
`photos` gets the ones named by `--from`, shrunk to `--size` pixels, and `truth/near` the middle of the nearer one,
`--zoom` times magnified, at the same size; where this is in the first of the others is printed, for `--target`.
`all` holds both, if they have the same shape: the others in `far`, the nearer one in `near`.
`score` renders each scene at the cameras of a folder of posed pictures, at their size, and prints the means for each
folder of pictures in it (x3, x9, ...): PSNR in dB, SSIM, GMSD (less is better), HaarPSI, over the whole picture and
over what the photographs show (the pictures' masks), and the largest share of needles in a view. `--st-lpips` adds
ST-LPIPS (less is better); with `--pictures FOLDER` it writes the renders, too.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `examples` is not installed

from cus.cameras import Cameras, load_transforms, save_transforms
from cus.datasets.scenes import open_scene
from cus.evaluation.metrics import gmsd, haarpsi, psnr, ssim
from cus.evaluation.metrics.lpips import ShiftTolerantLpips
from cus.inference.outputs import to_bytes
from cus.viewer.recording import shots
from cus.viewer.scene import ViewScene, camera_of, load_scene

if TYPE_CHECKING:
    from procedural.tracer import Scene

FACTORS = (1, 3, 9, 27)
# Positions between the two photographs from which every factor is seen.
BETWEEN = (0.0, 0.5, 1.0)
# A photograph shows a point if the surface that it sees there is as far away to this share.
SAME_SURFACE = 0.01
Measure = Callable[..., float]
METRICS: dict[str, Measure] = {"psnr": psnr, "ssim": ssim, "gmsd": gmsd, "haarpsi": haarpsi}


def truth_cameras(photographs: Cameras, point: Tensor, factor: float, width: int) -> Cameras:
    """Cameras on the lines from the photographs' positions to a world point [3], aimed at it, `factor` times nearer."""
    from procedural.tracer import look_at

    small = photographs.resized(width, round(width * photographs.height / photographs.width))
    start, end = photographs.centers
    positions = [point + (start + share * (end - start) - point) / factor for share in BETWEEN]
    viewmats = torch.stack([look_at(position, point) for position in positions])
    return Cameras(viewmats, small.Ks[:1].expand(len(positions), 3, 3).clone(), small.width, small.height)


def render_truth(folder: Path, targets: list[tuple[float, float]], width: int, supersample: int) -> None:
    """Write `x<factor>/<target>_<position>.png` and `transforms.json`."""
    from examples.render import courtyard, photograph_cameras
    from procedural.tracer import render

    scene, photographs = courtyard(), photograph_cameras()
    _, depths = render(scene, photographs[0].resized(320, 180), 1)
    sources = depths_of(scene, photographs.resized(640, 360))
    names, cameras = [], []
    for number, (u, v) in enumerate(targets):
        depth = depths[0, int(v * 180), int(u * 320)]
        pixel = torch.tensor([u * photographs.width, v * photographs.height, 1.0])
        ray = torch.linalg.inv(photographs.Ks[0]) @ pixel
        c2w = photographs.c2w[0]
        point = c2w[:3, :3] @ (ray * depth) + c2w[:3, 3]
        for factor in FACTORS:
            views = truth_cameras(photographs, point, factor, width)
            cameras.append(views)
            for index in range(len(views)):
                name = f"x{factor}/{number}_{index}.png"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                if not (folder / name).exists():
                    picture = render(scene, views[index], supersample)[0][0]
                    Image.fromarray(to_bytes(picture)).save(folder / name)
                mask = shown_by(scene, views[index], photographs.resized(640, 360), sources)
                Image.fromarray((255 * mask).byte().numpy()).save((folder / name).with_suffix(".mask.png"))
                names.append(name)
                print(folder / name, flush=True)
    save_transforms(folder / "transforms.json", Cameras.cat(cameras), names)
    content = json.loads((folder / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["mask_path"] = str(Path(frame["file_path"]).with_suffix(".mask.png"))
    (folder / "transforms.json").write_text(json.dumps(content, indent=1))


def depths_of(scene: "Scene", cameras: Cameras) -> Tensor:
    """[N, H, W] z-depths of a procedural scene."""
    from procedural.tracer import render

    return torch.cat([render(scene, cameras[index], 1)[1] for index in range(len(cameras))])


def shown_by(scene: "Scene", camera: Cameras, photographs: Cameras, depths: Tensor) -> Tensor:
    """[H, W] bool: pixels of a view whose surface a photograph shows, by its depths [V, H', W']."""
    points = camera.backproject(depths_of(scene, camera)).reshape(-1, 3)
    pixels, seen = photographs.project(points)
    size = pixels.new_tensor([photographs.width, photographs.height])
    inside = (seen > 0) & ((pixels >= 0) & (pixels < size)).all(dim=-1)
    columns, rows = torch.where(inside[..., None], pixels, torch.zeros_like(pixels)).long().unbind(-1)
    surface = depths.flatten(1).gather(1, rows * photographs.width + columns)
    visible = inside & ((seen - surface).abs() <= SAME_SURFACE * surface)
    return visible.any(dim=0).reshape(camera.height, camera.width)


def prepare_near(data: Path, folder: Path, nearest: str, names: list[str], size: int, zoom: float) -> None:
    """Write `photos/`, `truth/near/` and both in `all/` with their `transforms.json`, and print the target."""
    posed = open_scene(data)
    chosen = posed.select([posed.find(name) for name in names])
    width, height = max(chosen.sizes)
    scale = size / max(width, height)
    images, cameras = chosen.load(round(width * scale), round(height * scale))
    index = posed.find(nearest)
    whole, camera = posed.select([index]).load(*posed.sizes[index])
    across, down = round(camera.width / zoom), round(camera.height / zoom)
    left, top = (camera.width - across) // 2, (camera.height - down) // 2
    small = round(size * across / max(across, down)), round(size * down / max(across, down))
    window = whole[:, :, top : top + down, left : left + across]
    picture = torch.nn.functional.interpolate(window, small[::-1], mode="area")
    crop = camera.cropped(left, top, across, down).resized(*small)
    far, near = [path.stem for path in chosen.paths], f"near/{posed.paths[index].stem}"
    sets = [(folder / "photos", far, images, cameras), (folder / "truth", [near], picture, crop)]
    if images.shape[-2:] == picture.shape[-2:]:
        both = torch.cat([images, picture]), Cameras.cat([cameras, crop])
        sets.append((folder / "all", [*(f"far/{stem}" for stem in far), near], *both))
    for place, stems, pictures, views in sets:
        for stem, image in zip(stems, pictures, strict=True):
            (place / stem).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(to_bytes(image)).save(place / f"{stem}.png")
        save_transforms(place / "transforms.json", views, [f"{stem}.png" for stem in stems])
    # The point on the crop's axis that is nearest to the first photograph's.
    middle = crop.Ks[0, :2, 2] / crop.Ks.new_tensor([crop.width, crop.height])
    axes, centers = (torch.stack([c.c2w[0, :3, k] for c in (crop, cameras[0])]).double() for k in (2, 3))
    system = torch.stack([axes[0], -axes[1]], dim=1)
    along = torch.linalg.lstsq(system, (centers[1] - centers[0])[:, None]).solution[0, 0]
    point = (centers[0] + along * axes[0]).float()
    u, v = (cameras[0].project(point[None])[0][0, 0] / torch.tensor([cameras.width, cameras.height])).tolist()
    rates = [c.Ks[0, 0, 0] / (c.centers[0] - point).norm() for c in (crop, cameras[0])]
    print(f"--target {u:.3f},{v:.3f}, sampled {rates[0] / rates[1]:.2f} times as finely as in {chosen.paths[0].stem}")
    print(f"its axis is at {middle[0]:.2f},{middle[1]:.2f} of the nearer picture")


def score(
    folder: Path, scene: ViewScene, name: str, pictures: Path | None, size: int | None, measures: Mapping[str, Measure]
) -> dict[str, dict[str, float]]:
    """Means over each subfolder of the posed pictures, by subfolder and measure."""
    posed = load_transforms(folder) if (folder / "transforms.json").is_file() else open_scene(folder)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for index, path in enumerate(posed.paths):
        scale = 1.0 if size is None else min(1.0, size / max(posed.sizes[index]))
        photos, _ = posed.select([index]).read(*(round(side * scale) for side in posed.sizes[index]))
        truth, valid = photos.images[0], photos.valid[0]
        camera = camera_of(posed, index).resized(truth.shape[-1], truth.shape[-2])
        shot, needles = next(shots(scene, camera))
        group = found[path.parent.name]
        for measure, function in measures.items():
            group[measure].append(function(shot.picture, truth))
            if bool(valid.any()):
                group[f"{measure}_shown"].append(function(shot.picture, truth, valid))
        group["needles"].append(needles)
        if pictures is not None:
            target = pictures / name / f"{path.parent.name}_{path.stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(to_bytes(shot.picture)).save(target)
    worst = {group: max(measures["needles"]) for group, measures in found.items()}
    return {
        group: {m: sum(v) / len(v) for m, v in measures.items()} | {"needles": worst[group]}
        for group, measures in found.items()
    }


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    truth = commands.add_parser("truth", help="render the example from nearer by")
    truth.add_argument("folder", type=Path)
    truth.add_argument("--targets", nargs="+", default=["0.5,0.4"], help="fractions of the first photograph")
    truth.add_argument("--width", type=int, default=512)
    truth.add_argument("--supersample", type=int, default=3)
    near = commands.add_parser("near", help="prepare a nearer photograph of a posed scene")
    near.add_argument("data", type=Path)
    near.add_argument("folder", type=Path)
    near.add_argument("--of", required=True, help="name of the nearer photograph")
    near.add_argument("--from", nargs="+", required=True, dest="names", help="names of the others to use")
    near.add_argument("--size", type=int, default=384)
    near.add_argument("--zoom", type=float, default=2.0)
    scored = commands.add_parser("score", help="score scenes")
    scored.add_argument("folder", type=Path, help="posed pictures: transforms.json, COLMAP, ...")
    scored.add_argument("scenes", type=Path, nargs="+")
    scored.add_argument("--size", type=int, help="longest side of the pictures in pixels (default: as stored)")
    scored.add_argument("--st-lpips", action="store_true", help="ST-LPIPS as well")
    scored.add_argument("--pictures", type=Path, help="folder for the renders")
    scored.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    if arguments.command == "truth":
        targets = [(float(u), float(v)) for u, v in (target.split(",") for target in arguments.targets)]
        render_truth(arguments.folder, targets, arguments.width, arguments.supersample)
        return
    if arguments.command == "near":
        given = arguments.data, arguments.folder, arguments.of, arguments.names
        prepare_near(*given, arguments.size, arguments.zoom)
        return
    made, measures = {}, dict(METRICS)
    if arguments.st_lpips:
        measures["st_lpips"] = ShiftTolerantLpips()
    for path in arguments.scenes:
        scene, given = load_scene(path), (arguments.pictures, arguments.size, measures)
        made[path.name] = score(arguments.folder, scene, path.name, *given)
        others = [measure for measure in measures if measure != "psnr"]
        for group, m in made[path.name].items():
            told = [
                " ".join([f"{m['psnr' + part]:6.2f}", *(f"{m[measure + part]:.3f}" for measure in others)])
                for part in ("", "_shown")
            ]
            print(f"{path.name:24} {group:6} {' | '.join(told)} | {100 * m['needles']:.2f} %", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
