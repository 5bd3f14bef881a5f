"""Options that cannot be."""

from collections.abc import Iterator

from tests.hostile import base
from tests.hostile.harness import Case

COUNTS = ("0", "-1", "1.5", "x", "", "nan", "100000000000", "9" * 400, "9" * 5000)
NUMBERS = ("nan", "inf", "-inf", "-1", "1e30", "x", "")
INFER = {
    "--frames": COUNTS, "--size": (*COUNTS, "63"), "--photo-size": COUNTS, "--steps": COUNTS, "--fps": COUNTS,
    "--splat-iterations": COUNTS, "--zoom": (*NUMBERS, "0", "65"), "--fov": (*NUMBERS, "0", "180"),
    "--focal-35mm": (*NUMBERS, "0"), "--guidance": NUMBERS, "--seed": ("-1", str(2**64), "1.5", "x"),
    "--target": ("nan,nan", "2,2", "0.5", "a,b", "0.5,0.5,0.5", "", "inf,0", "-1,0"),
    "--estimator": ("nope", "", "vggt:", "vggt:/nope", "da3:", "da3:/nope", "stereo:small"),
    "--model": ("nope", "", "..", "a/b/c", "\x01"),
    "--variant": ("nope", "../x"), "--device": ("tpu", "cuda:99", "", "cpu:x"), "--dtype": ("int8", ""),
    "--memory": ("huge", ""), "--attention": ("none",), "--conditioning": ("nope", ""),
    "--trajectory": ("spiral", "", ".", "/dev/zero", "absent.json"),
    "--cameras": ("absent.json", "/dev/zero", "images", "images/0.png"),
    "--views": ("absent.jpg", "/dev/zero", "transforms.json", ""), "--nope": ("1",),
}  # fmt: skip
FIT = {
    "--iterations": COUNTS, "--max-gaussians": COUNTS, "--size": COUNTS, "--depth-weight": NUMBERS,
    "--seed": ("-1", str(2**70), "x"), "--sh-degree": ("4", "-1", "x"), "--strategy": ("nope",),
    "--device": ("tpu", "cuda:99"), "--hold-out": ("nope.png", ""), "--images": ("nope", "/dev/zero"), "--nope": ("1",),
}  # fmt: skip
VIEW = {
    "--frames": COUNTS, "--size": COUNTS, "--fps": COUNTS, "--factor": (*NUMBERS, "0"),
    "--target": ("nan,nan", "2,2", "x"), "--background": ("2,2,2", "nan,nan,nan", "pink", "0.5"),
    "--record": ("out.avi", "absent/out.mp4", ".", "/dev/full"), "--path": ("nope", "run"),
    "--cameras": ("absent.json", "/dev/zero", "a.ply"),
}  # fmt: skip
SERVER = {"--port": ("-1", "99999", "x", ""), "--max-gaussians": ("0", "-1", "x"), "--host": ("", "999.1.1.1", "a b")}
EVAL = {
    "--size": COUNTS, "--seed": ("-1", "x", str(2**70)), "--metrics": ("nope",), "--rows": ("nope",),
    "--scenes": ("nope",), "--config": ("absent.yaml", "/dev/zero", "transforms.json"), "--split": ("absent.json",),
    "--model": ("nope",), "--device": ("tpu",), "--poses": ("nope",),
}  # fmt: skip
EVAL_SETTINGS = ("nope=1", "rules.nope=1", "rules.zooms=x", "rules.zooms=[nan]", "rules.triples=-1", "rows=3", "size=x",
    "splat_iterations=-1", "rules={", "=1", "baseline=nope")  # fmt: skip
EXPORT = {"--format": ("obj", ""), "--spz-version": ("0", "9", "x", "4"), "--cameras": ("all", "nope"),
    "--out": ("b.ply", ".", "absent/b.spz", "a.ply")}  # fmt: skip
CONVERT = {"--dtype": ("int8",), "--shard-size": (*NUMBERS, "0"), "--frames": COUNTS, "--config": ("absent.yaml",)}
TRAIN = (
    "nope=1",
    "loop.steps=x",
    "loop.steps=-1",
    "loop.batch_size=0",
    "loop.lr=nan",
    "=",
    "loop=3",
    "out=/dev/null/x",
)
SCRIPTS = ("train/unet.py", "train/vae.py", "train/decoder.py", "data/cache_latents.py", "data/make_procedural.py")
# Large, but nothing that must fail.
DISPUTED = {("--max-gaussians", "100000000000"), ("--depth-weight", "1e30")}


def cases() -> Iterator[Case]:
    """All of them, over all commands."""
    infer = ("--views", "images/0.png", "images/1.png", "--conditioning-only", "--out", "out")
    yield from _varied("cus-infer", infer, INFER, base.write_posed)
    yield from _varied("cus-fit", (".", "--out", "out", "--iterations", "2"), FIT, base.write_posed)
    record = ("a.ply", "--record", "out.mp4", "--frames", "1", "--size", "64")
    yield from _varied("cus-view", record, VIEW, _write_splat)
    yield from _varied("cus-view", ("a.ply",), SERVER, _write_splat)
    yield from _varied("cus-eval", ("--data", ".", "--out", "eval"), EVAL, base.write_posed)
    for setting in EVAL_SETTINGS:
        arguments = ("--data", ".", "--out", "eval", setting)
        yield Case("options", setting, "cus-eval", arguments, base.write_posed, quick=True)
    yield from _varied("cus-export", ("a.ply", "--format", "spz"), EXPORT, _write_splat)
    yield from _varied("cus-convert", ("model", "out.safetensors"), CONVERT, lambda f: base.write_model(f / "model"))
    for name in ("", "noslash", "a/b/c", "../x", "a b/c"):
        model = ("model", name, "--dry-run")
        yield Case("options", f"repository {name!r}", "cus-push", model, lambda f: base.write_model(f / "model"))
    for command in ("infer", "fit", "view", "eval", "export", "convert", "push"):
        yield Case("options", "no arguments", f"cus-{command}", (), quick=True)
    for script in (
        "train/unet.py",
        "train/vae.py",
        "train/decoder.py",
        "data/cache_latents.py",
        "data/make_procedural.py",
    ):
        yield Case("options", "no arguments", script, ())
        for setting in TRAIN:
            yield Case("options", setting, script, ("out=out", setting))
        yield Case("options", "two configs", script, ("a.yaml", "b.yaml"))
        yield Case("options", "a config that is a device", script, ("/dev/zero",))


def _varied(command, arguments, options, make) -> Iterator[Case]:
    for option, values in options.items():
        for value in values:
            # An empty value stands for one that a script has lost.
            name = f"{option} {value[:20]!r}"
            expected = "either" if (option, value) in DISPUTED else "refused"
            yield Case("options", name, command, (*arguments, f"{option}={value}"), make, expected, quick=True)


def _write_splat(folder) -> None:
    (folder / "a.ply").write_bytes(base.splat_bytes(".ply"))
