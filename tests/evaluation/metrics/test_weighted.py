"""Metrics that need weights or optional packages: the real classes with random weights; what is said without."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from cus.errors import InputError
from cus.evaluation.metrics import METRIC_NAMES, make_metrics
from cus.evaluation.metrics.dino import DinoSimilarity
from cus.evaluation.metrics.lpips import Lpips
from cus.evaluation.metrics.no_reference import Niqe, NoReference
from tests.evaluation.metrics.pictures import noisy, photograph


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of torch's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def squeezenet(no_weights: Path) -> Path:
    """A file with random SqueezeNet weights where torchvision looks for the trained ones."""
    torch.manual_seed(0)
    file = no_weights / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny DINOv2 of random weights."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    folder = tmp_path_factory.mktemp("dinov2")
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    target = photograph("a.jpg", 77, 130)
    return noisy(target, 0.1), target


def test_lpips_is_that_of_torchmetrics(squeezenet: Path, pair: tuple[Tensor, Tensor]) -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    image, target = pair
    metric = Lpips("squeeze")
    want = functional.learned_perceptual_image_patch_similarity(
        image[None], target[None], net_type="squeeze", normalize=True
    )
    assert metric(image, target) == pytest.approx(float(want), rel=1e-5)
    assert metric(target, target) == 0
    assert (metric.name, metric.label, metric.higher_is_better) == ("lpips_squeeze", "LPIPS (squeeze)", False)


def test_lpips_under_a_mask_counts_what_is_near_it(squeezenet: Path) -> None:
    pytest.importorskip("torchmetrics")
    target = photograph("a.jpg", 128, 256)
    image = target.clone()
    image[..., 192:] = noisy(target, 0.5)[..., 192:]
    metric = Lpips("squeeze")
    left = torch.zeros(128, 256, dtype=torch.bool)
    left[:, :64] = True
    everywhere, clean, spoiled = metric(image, target), metric(image, target, left), metric(image, target, ~left)
    assert clean == 0
    assert spoiled > everywhere > 0
    assert metric(image, target) == everywhere  # masks leave no trace


def test_lpips_without_weights_says_which_file_and_where_from(no_weights: Path) -> None:
    pytest.importorskip("torchmetrics")
    with pytest.raises(InputError) as caught:
        Lpips("alex")
    assert "\n" not in str(caught.value)
    for part in (str(no_weights / "hub" / "checkpoints" / "alexnet"), "https://download.pytorch.org/models/alexnet"):
        assert part in str(caught.value)


def test_a_damaged_download_is_named(squeezenet: Path) -> None:
    pytest.importorskip("torchmetrics")
    whole = squeezenet.read_bytes()
    for damaged in (whole[:4000], b"", b"not weights"):
        squeezenet.write_bytes(damaged)
        with pytest.raises(InputError, match="delete it and download"):
            Lpips("squeeze")


def test_lpips_refuses_what_it_cannot_score(squeezenet: Path) -> None:
    pytest.importorskip("torchmetrics")
    metric = Lpips("squeeze")
    with pytest.raises(ValueError, match="at least 64"):
        metric(torch.rand(3, 63, 90), torch.rand(3, 63, 90))
    with pytest.raises(ValueError, match="no True pixel"):
        metric(torch.rand(3, 64, 64), torch.rand(3, 64, 64), torch.zeros(64, 64, dtype=torch.bool))


def test_dino_is_the_cosine_of_the_class_tokens(dinov2: Path) -> None:
    from transformers import Dinov2Model

    image, target = torch.rand(2, 3, 224, 238, generator=torch.Generator().manual_seed(0))
    metric = DinoSimilarity.load(dinov2)
    model = Dinov2Model.from_pretrained(dinov2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():  # whole patches on both sides: nothing is resized
        inputs = (torch.stack([image, target]) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        tokens = model(pixel_values=inputs).pooler_output
    assert metric(image, target) == pytest.approx(float(F.cosine_similarity(tokens[0], tokens[1], dim=0)), abs=1e-5)


def test_dino_of_equal_pictures_is_1_in_any_shape(dinov2: Path) -> None:
    metric = DinoSimilarity.load(str(dinov2))
    for height, width in ((90, 160), (33, 31), (500, 20)):
        image, target = torch.rand(2, 3, height, width)
        assert metric(target, target) == pytest.approx(1, abs=1e-6)
        assert -1 <= metric(image, target) < 1


def test_dino_takes_no_mask(dinov2: Path, pair: tuple[Tensor, Tensor]) -> None:
    metric = DinoSimilarity.load(dinov2)
    assert not metric.takes_mask
    with pytest.raises(ValueError, match="takes no mask"):
        metric(*pair, torch.ones(77, 130, dtype=torch.bool))


def test_dino_without_a_whole_model_says_how_to_get_one(dinov2: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config, weights = ((dinov2 / name).read_bytes() for name in ("config.json", "model.safetensors"))
    tensors = load_file(dinov2 / "model.safetensors")
    patches = "embeddings.patch_embeddings.projection.weight"
    save_file({k: v for k, v in tensors.items() if k != patches}, tmp_path / "part", metadata={"format": "pt"})
    save_file(tensors | {patches: torch.zeros(1)}, tmp_path / "shape", metadata={"format": "pt"})
    stored = {
        "no weights": (config, None),
        "cut off": (config, weights[:5000]),
        "incomplete": (config, (tmp_path / "part").read_bytes()),
        "another size": (config, (tmp_path / "shape").read_bytes()),
        "another model": (config.replace(b"dinov2", b"vit"), weights),
    }
    for case, (settings, data) in stored.items():
        folder = tmp_path / case
        folder.mkdir()
        (folder / "config.json").write_bytes(settings)
        if data is not None:
            (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(InputError, match="hf download"):
            DinoSimilarity.load(folder)
    with pytest.raises(InputError, match="hf download"):
        DinoSimilarity.load(tmp_path / "nowhere")


def test_no_reference_metrics_say_what_is_missing(no_weights: Path) -> None:
    with pytest.raises(InputError) as caught:
        NoReference("metaiqa")
    installed = importlib.util.find_spec("pyiqa") is not None
    assert ("create_metric" if installed else "pip install 'pyiqa") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_niqe_takes_the_parameters_of_pyiqas_cache(no_weights: Path) -> None:
    if importlib.util.find_spec("basicsr") is not None:
        pytest.skip("those of basicsr come first")
    with pytest.raises(InputError, match="pip install --no-deps basicsr"):
        Niqe()
    file = no_weights / "hub" / "pyiqa" / "niqe_modelparameters.mat"
    file.parent.mkdir(parents=True)
    generator = np.random.default_rng(0)
    factor, mean = generator.normal(size=(36, 36)), generator.normal(size=(1, 36))
    scipy.io.savemat(file, {"mu_prisparam": mean, "cov_prisparam": factor @ factor.T})
    stored, picture = (mean.ravel(), factor @ factor.T), photograph("a.jpg", 200, 300)
    assert Niqe()(picture) == pytest.approx(Niqe(stored)(picture))


def test_all_metrics_are_made_or_excused(no_weights: Path, dinov2: Path) -> None:
    metrics, missing = make_metrics(None, "cpu", dino=dinov2)
    names = [metric.name for metric in metrics]
    learned = ["st_lpips"] if importlib.util.find_spec("stlpips_pytorch") else []
    niqe = ["niqe"] if importlib.util.find_spec("basicsr") else []
    assert names == ["psnr", "psnr_cc", "ssim", *learned, "gmsd", "haarpsi", "dino", *niqe]
    assert set(names) | set(missing) == set(METRIC_NAMES)
    assert all(reason and "\n" not in reason for reason in missing.values())


def test_metrics_asked_for_come_in_order() -> None:
    metrics, missing = make_metrics(["haarpsi", "psnr"], "cpu")
    assert [(m.name, m.label, m.unit, m.higher_is_better) for m in metrics] == [
        ("haarpsi", "HaarPSI", "", True),
        ("psnr", "PSNR", "dB", True),
    ]
    assert not missing


def test_a_metric_asked_for_that_cannot_be_had_is_an_error(no_weights: Path) -> None:
    with pytest.raises(InputError, match="LPIPS needs"):
        make_metrics(["psnr", "lpips"], "cpu")


def test_unknown_repeated_and_no_names_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'haarpsi'"):
        make_metrics(["harpsi"], "cpu")
    with pytest.raises(InputError, match="each once"):
        make_metrics(["psnr", "psnr"], "cpu")
    with pytest.raises(InputError, match="at least one"):
        make_metrics([], "cpu")
