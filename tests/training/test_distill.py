"""Few-step students: what learns, what does not, and that a run may be cut off."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cus.datasets.clips import Clip, save_clip
from cus.diffusion import CloseUpShotPipeline
from cus.errors import InputError
from cus.training.distill import DistillConfig, DistillStage, check_settings
from cus.training.published import read_training
from cus.training.scripts import settings_of, train_stage
from tests.conftest import ROOT
from tests.diffusion.tiny import pictures, tiny_pipeline
from tests.evaluation.small_scenes import one_thread

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher in `teacher/`, and clips with structure images in `clips/`."""
    folder = tmp_path_factory.mktemp("distill")
    tiny_pipeline(unshuffle=2).save_pretrained(folder / "teacher")
    (folder / "clips").mkdir()
    for seed in range(2):
        videos = torch.rand(4, 4, 3, 16, 24, generator=torch.Generator().manual_seed(seed))
        clip = Clip(videos[0, :2], videos[1], videos[2], torch.ones(4, 16, 24) > 0, videos[3])
        save_clip(folder / "clips" / f"{seed}.safetensors", clip)
    return folder


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    given = [f"out={out}", f"init={data / 'teacher'}", f"clips={data / 'clips'}", "trained=[unet]", "frames=2"]
    given += ["crop=[4,4]", "sampling.steps=2", "sampling.guidance=1", "sampling.eta=0", "critic_rank=2"]
    given += ["loop.steps=4", "loop.workers=0", "loop.learning_rate=1e-3", "loop.precision=float32", "loop.batch=2"]
    return [*given, *more]


def loss_of(stage: DistillStage, seed: int = 1) -> torch.Tensor:
    batch = torch.utils.data.default_collate([stage.dataset()[index] for index in range(2)])
    return stage.loss(stage.module, batch, torch.Generator().manual_seed(seed))


def test_student_and_critic_learn_each_from_its_own_loss_and_the_teacher_stays(data, tmp_path) -> None:
    with one_thread():
        stage = DistillStage(settings_of(DistillConfig, arguments(data, tmp_path)))
        loss_of(stage).backward()
    learns = {name for name, parameter in stage.module.named_parameters() if parameter.requires_grad}
    assert learns == {name for name in learns if name.startswith("student.") or "lora_" in name}
    gradients = {name: value.grad for name, value in stage.module.named_parameters() if value.grad is not None}
    assert set(gradients) == learns
    critic = {name for name in gradients if name.startswith("critic.") and "lora_B" in name}
    assert all(gradients[name].any() for name in critic), "a new adapter learns by its second matrix first"


def test_a_critic_without_a_lora_is_a_copy_of_the_teacher_that_learns_whole(data, tmp_path) -> None:
    with one_thread():
        stage = DistillStage(settings_of(DistillConfig, arguments(data, tmp_path, "critic_rank=0")))
        teacher = {name: value.clone() for name, value in stage.module.teacher.state_dict().items()}
        loss_of(stage).backward()
    moved = {name.partition(".")[0] for name, value in stage.module.named_parameters() if value.grad is not None}
    assert moved == {"student", "critic"}
    networks = (stage.module.critic, stage.module.student, stage.module.teacher)
    assert all(torch.equal(value, n.state_dict()[name]) for n in networks for name, value in teacher.items())


def test_regression_is_the_distance_from_the_teachers_sample_of_the_same_noise(data, tmp_path) -> None:
    """A student that is its teacher makes the same sample in as many steps, and another one by its first step alone."""
    given = arguments(data, tmp_path, "critic_rank=0", "teacher_guidance=1", "regression_steps=2")
    # The first draw of a step says which sampling step is trained.
    draws = {seed: float(torch.rand((), generator=torch.Generator().manual_seed(seed))) for seed in range(20)}
    first, last = min(draws, key=lambda seed: draws[seed]), max(draws, key=lambda seed: draws[seed])

    def distance(seed: int) -> float:
        losses = []
        for weight in (0, 1):
            stage = DistillStage(settings_of(DistillConfig, [*given, f"regression={weight}"]))
            stage.module.student.train(False)  # without drop-out
            losses.append(float(loss_of(stage, seed).detach()))
        return losses[1] - losses[0]

    with one_thread():
        distances = {seed: distance(seed) for seed in (first, last)}
    # The smooth distance of equal values.
    assert distances[last] == pytest.approx(2e-3, abs=1e-5) and distances[first] > 0.01


@pytest.mark.parametrize("relative", [False, True])
def test_a_critic_of_a_teacher_of_pixels_learns_by_its_loss(data, tmp_path, relative) -> None:
    given = arguments(data, tmp_path, "critic_rank=0", "teacher_guidance=1", "objective.pixels=true")
    with one_thread():
        stage = DistillStage(settings_of(DistillConfig, [*given, f"objective.relative={str(relative).lower()}"]))
        loss = loss_of(stage)
        loss.backward()
    assert torch.isfinite(loss)
    critic = [value.grad for value in stage.module.critic.parameters() if value.grad is not None]
    assert any(gradient.any() for gradient in critic)


def test_the_critic_has_its_own_learning_rate(data, tmp_path) -> None:
    """Adam moves a new weight by the learning rate, whatever its gradient."""

    def moved(*more: str) -> dict[str, float]:
        out = tmp_path / f"out{len(more)}"
        given = arguments(data, out, "critic_rank=0", "loop.steps=1", "loop.weight_decay=0", *more)
        stages = []
        with one_thread():
            train_stage(DistillConfig, lambda c: stages.append(DistillStage(c)) or stages[0], given, lambda *_: None)
        parts, start = stages[0].module, stages[0].module.teacher.state_dict()
        return {
            name: max(float((v - start[k]).abs().max()) for k, v in getattr(parts, name).state_dict().items())
            for name in ("student", "critic")
        }

    assert moved() == pytest.approx({"student": 1e-3, "critic": 4e-3}, rel=0.05)
    assert moved("critic_rate=1") == pytest.approx({"student": 1e-3, "critic": 1e-3}, rel=0.05)


def test_a_student_that_is_its_teacher_has_a_critic_that_sees_no_difference(data, tmp_path) -> None:
    """A new critic is the teacher: without guidance their estimates are one, and the student is left alone."""
    given = arguments(data, tmp_path, "teacher_guidance=1")
    with one_thread():
        stage = DistillStage(settings_of(DistillConfig, given))
        loss_of(stage).backward()
        norm = sum(float(p.grad.norm()) for p in stage.pipeline.unet.parameters() if p.grad is not None)
        guided = DistillStage(settings_of(DistillConfig, arguments(data, tmp_path)))
        loss_of(guided).backward()
    other = sum(float(p.grad.norm()) for p in guided.pipeline.unet.parameters() if p.grad is not None)
    assert norm < 1e-6 < 1e-3 < other


def test_a_student_is_exported_with_its_steps_and_four_steps_are_two_and_two(data, tmp_path) -> None:
    def train(out: Path, *more: str) -> dict[str, torch.Tensor]:
        with one_thread():
            train_stage(DistillConfig, DistillStage, arguments(data, out, *more), lambda done, total: None)
        return load_file(out / "export" / "unet" / "diffusion_pytorch_model.safetensors")

    once = train(tmp_path / "once", f"held_out={data / 'clips'}", "held_out_clips=1", "loop.sample_every=4")
    train(tmp_path / "twice", "loop.steps=2")
    twice = train(tmp_path / "twice")
    assert all(torch.equal(once[name], twice[name]) for name in once)
    student = CloseUpShotPipeline.from_pretrained(tmp_path / "once" / "export")
    assert (student.sampling.steps, student.sampling.guidance) == (2, 1)
    assert not any("lora" in name for name in once)
    teacher = CloseUpShotPipeline.from_pretrained(data / "teacher")
    assert not torch.equal(student(pictures(1), pictures(2)), teacher(pictures(1), pictures(2)))
    assert [stage.name for stage in read_training(tmp_path / "once").stages] == ["Few-step student"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("init=''", "name it with init="),
        ("lora.rank=2", "set lora.rank=0"),
        ("trained=[unet,prompt]", r"set trained=\[unet\]"),
        ("sampling.steps=50", "a student takes 1 to 8 steps"),
        ("sampling.guidance=7.5", "set sampling.guidance=1"),
        ("sampling.eta=1", "set sampling.eta=0"),
        ("sampling.noise=0", "sampling.noise must be 1"),
        ("noise_range=[0.9,0.1]", "noise_range must ascend"),
    ],
)
def test_what_gives_no_student_is_refused(data, tmp_path, given: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistillStage(settings_of(DistillConfig, arguments(data, tmp_path, given)))


def test_the_shipped_settings_make_a_student_of_a_teacher_with_latents() -> None:
    given = [str(ROOT / "configs" / "full" / "distill.yaml"), "out=x", "init=y", "latents=z"]
    config = settings_of(DistillConfig, given)
    check_settings(config)
    assert (config.sampling.steps, config.teacher_guidance, config.trained) == (4, 7.5, ["unet"])
