"""What a run needs, against what the allocator saw; and that no plan changes the frames."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from cus.diffusion import PLANS, CloseUpShotPipeline
from cus.diffusion.memory import Clip, choose_plan, measure_need, skeleton
from cus.errors import InputError
from cus.hub.stored import open_model
from tests.diffusion.tiny import pictures, tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipeline() -> CloseUpShotPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def saved(pipeline: CloseUpShotPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory") / "model"
    pipeline.save_pretrained(folder)
    return folder


def relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def allocated(pipeline: CloseUpShotPipeline, clip: Clip) -> int:
    """Peak bytes that PyTorch's allocator handed out during a call, by its own log, inputs included."""
    inputs = pictures(1, clip.height, clip.width), pictures(clip.frames, clip.height, clip.width)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        pipeline(*inputs, steps=1, guidance=clip.guidance)
    events = [event for event in log.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak + sum(tensor.nbytes for tensor in inputs)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_need_is_what_the_allocator_hands_out(
    pipeline: CloseUpShotPipeline, saved: Path, plan: str, guidance: float
) -> None:
    clip = Clip(4, 128, 192, guidance=guidance)
    expected = measure_need(skeleton(open_model(saved)), clip, PLANS[plan]).working
    pipeline.plan = PLANS[plan]
    assert allocated(pipeline, clip) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("frames", [9, 23])
def test_the_need_of_a_long_clip_is_no_less_than_what_is_handed_out(
    pipeline: CloseUpShotPipeline, saved: Path, frames: int
) -> None:
    clip = Clip(frames, 96, 128)
    pipeline.plan = PLANS["low"]
    expected = measure_need(skeleton(open_model(saved)), clip, PLANS["low"]).working
    assert 0.8 * expected < allocated(pipeline, clip) < 1.05 * expected


def test_the_need_of_a_restorer_with_layers_is_known(tmp_path: Path) -> None:
    """A lossless first stage outside autocast, holes filled, colours kept: none of it needs values."""
    restorer = tiny_pipeline(residual_scale=1.0, layers=2, unshuffle=4, noise=0.0, fill_holes=True, color_window=5)
    restorer.save_pretrained(tmp_path / "model")
    need = measure_need(skeleton(open_model(tmp_path / "model")), Clip(3, 64, 64, False, 1.0), PLANS["middle"])
    assert need.working > 3 * 3 * 64 * 64 * 4


def test_the_need_is_known_without_the_weights_and_halves_with_their_precision(saved: Path) -> None:
    bare = saved.parent / "bare"
    shutil.copytree(saved, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    full, half = (
        measure_need(skeleton(open_model(bare), dtype), Clip(3, 64, 64), PLANS["low"])
        for dtype in (torch.float32, torch.float16)
    )
    assert full.weights["unet"] == sum(p.nbytes for p in tiny_pipeline().unet.parameters())
    assert all(half.weights[name] * 2 == size for name, size in full.weights.items())
    assert full.total(True, "cuda") < full.total(False, "cuda"), "offloading must leave weights out"


@pytest.mark.slow
def test_auto_takes_the_fastest_plan_that_fits_and_says_what_would_fit_where_none_does(saved: Path) -> None:
    networks, clip = skeleton(open_model(saved)), Clip(4, 512, 768, guidance=3.0)
    needs = {name: measure_need(networks, clip, plan).total(plan.offload, "cpu") for name, plan in PLANS.items()}
    assert needs["high"] > needs["middle"] >= needs["low"]
    chosen = [choose_plan(networks, clip, CPU, free=free).name for free in (needs["high"], needs["high"] - 1)]
    assert chosen == ["high", "middle"]
    assert choose_plan(networks, clip, CPU, "low", free=needs["high"]).name == "low"
    with pytest.raises(InputError, match=r"plan 'high'.*GiB are free; --memory low fits"):
        choose_plan(networks, clip, CPU, "high", free=needs["middle"])
    with pytest.raises(InputError, match=r"4 frames of 768x512 need .* --size \d+ --memory low fits"):
        choose_plan(networks, clip, CPU, free=needs["low"] - (100 << 20))
    with pytest.raises(InputError, match="not even frames a quarter as wide fit"):
        choose_plan(networks, clip, CPU, free=1 << 20)


@pytest.mark.slow
def test_the_remedy_in_the_message_does_fit(saved: Path) -> None:
    networks, clip = skeleton(open_model(saved)), Clip(4, 512, 768)
    free = measure_need(networks, clip, PLANS["low"]).total(False, "cpu") - (60 << 20)
    with pytest.raises(InputError) as refusal:
        choose_plan(networks, clip, CPU, free=free)
    longest = int(str(refusal.value).split("--size ")[1].split()[0])
    height, width = round(512 * longest / 768), longest
    assert choose_plan(networks, Clip(4, height, width), CPU, "low", free=free).name == "low"


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-3)])
def test_every_plan_gives_the_same_frames(dtype: torch.dtype, bar: float) -> None:
    pipeline = tiny_pipeline().to(dtype)
    made = {}
    for name, plan in PLANS.items():
        pipeline.use(plan)
        made[name] = pipeline(pictures(2), pictures(7, 48, 64), steps=3, guidance=3.0, guidance_rescale=0.7, eta=1.0)
    assert relative(made["high"], made["low"]) < bar
    assert relative(made["middle"], made["low"]) < bar


def test_with_offloading_no_layer_runs_before_its_network_was_called_to_the_device() -> None:
    pipeline = tiny_pipeline(skip=True)
    expected = pipeline(pictures(1), pictures(6), guidance=3.0)
    # The hooks that a GPU would use, with the CPU for the device.
    pipeline.enable_model_cpu_offload(device="cpu")
    called: set[str] = set()
    ran: set[str] = set()
    for name, network in pipeline.components.items():
        if not isinstance(network, torch.nn.Module):
            continue
        hook = network._hf_hook

        def pre_forward(module, *args, name=name, arrive=hook.pre_forward, **kwargs):
            called.add(name)
            return arrive(module, *args, **kwargs)

        def check(module, args, name=name):
            assert name in called, f"{type(module).__name__} of {name} ran where it was stored"
            ran.add(name)

        hook.pre_forward = pre_forward
        for module in network.modules():
            if module is not network and not list(module.children()):
                module.register_forward_pre_hook(check)
    torch.testing.assert_close(pipeline(pictures(1), pictures(6), guidance=3.0), expected)
    assert ran == {"unet", "vae", "image_encoder", "image_projector"}


def test_a_configuration_that_makes_no_network_is_refused(saved: Path) -> None:
    folder = saved.parent / "odd"
    shutil.copytree(saved, folder)
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text().replace('"head_channels": 8', '"head_channels": 7'))
    with pytest.raises(InputError, match="configuration that makes no network .*multiples of head_channels"):
        skeleton(open_model(folder))


@pytest.mark.gpu
@pytest.mark.parametrize("plan", PLANS)
def test_on_a_gpu_plans_agree_and_stay_within_their_need(saved: Path, plan: str) -> None:
    clip = Clip(7, 256, 384, guidance=3.0)
    frames = []
    for name in ("middle", plan):
        pipeline = tiny_pipeline().use(PLANS[name], "cuda")
        torch.cuda.reset_peak_memory_stats()
        inputs = pictures(1, clip.height, clip.width), pictures(clip.frames, clip.height, clip.width)
        frames.append(pipeline(*inputs, steps=3, guidance=clip.guidance))
        need = measure_need(skeleton(open_model(saved)), clip, PLANS[name]).total(PLANS[name].offload, "cuda")
        assert torch.cuda.max_memory_allocated() < need
    assert relative(frames[1], frames[0]) < 1e-3
    if PLANS[plan].offload:
        assert next(pipeline.unet.parameters()).device == CPU
