"""The model card: README.md of a model's repository, from plain data. Unknown facts are omitted, or stated as such."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

PAPER = "https://arxiv.org/abs/2511.13121"
TAGS = ("closeupshot", "novel-view-synthesis", "video-diffusion", "gaussian-splatting", "sparse-views")
TASK = "image-to-video"


@dataclass(frozen=True)
class ModelFacts:
    """Facts from a stored model's files.

    Attributes:
        parameters: component -> number of parameters.
        precisions: number types of the stored weights, such as float32.
        sampling: sampling settings, `cus.diffusion.Sampling` as a dict.
        variants: variants of the weights besides the standard one.
    """

    parameters: Mapping[str, int]
    precisions: Sequence[str]
    sampling: Mapping[str, Any]
    variants: Sequence[str] = ()


@dataclass(frozen=True)
class TrainingStage:
    """One stage of the training, from its resolved configuration.

    Attributes:
        name: name of the stage, such as "U-Net".
        steps: number of optimizer steps; None if not recorded.
        settings: settings in words and numbers, by name.
        data: training data, if recorded.
    """

    name: str
    steps: int | None
    settings: Mapping[str, Any]
    data: str = ""


@dataclass(frozen=True)
class AdapterFacts:
    """Facts from a LoRA's file.

    Attributes:
        layers: number of the U-Net's layers that it changes.
        settings: rank, alpha, targets etc., as far as they are in its file.
    """

    layers: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A metric in a table: name, label, unit ("dB" or ""), direction, digits after the decimal point."""

    name: str
    label: str
    unit: str
    higher_is_better: bool
    decimals: int


@dataclass(frozen=True)
class Row:
    """One method in a table.

    Attributes:
        label: label in the table.
        own: whether this is the model of the card.
        scores: metric -> (mean, bounds of its interval or None); missing metrics have no score.
    """

    label: str
    own: bool
    scores: Mapping[str, tuple[float, tuple[float, float] | None]]


@dataclass(frozen=True)
class Table:
    """Measured numbers for one group of cases.

    Attributes:
        title: title of the evaluation.
        scenes: names of the scenes.
        group: such as "Easy set"; empty for all cases.
        cases: number of cases that the means are over.
        columns: metrics in the table.
        rows: methods in the table.
        notes: how it was measured, one sentence each.
        source: program and version of the measurement.
    """

    title: str
    scenes: Sequence[str]
    group: str
    cases: int
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    source: str = ""


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card is written from.

    Attributes:
        repository: "org/name".
        model: facts from the stored model.
        license: licence identifier on the Hub, such as "apache-2.0"; empty if not stated.
        base_model: Hub ids of the models that the training started from.
        training: training stages in order; empty if unknown.
        tables: measured numbers.
        adapter: facts of a LoRA that is the only content of the repository; None for a whole model.
    """

    repository: str
    model: ModelFacts
    license: str = ""
    base_model: Sequence[str] = ()
    training: Sequence[TrainingStage] = ()
    tables: Sequence[Table] = field(default_factory=tuple)
    adapter: AdapterFacts | None = None


def card_text(facts: CardFacts) -> str:
    """README.md with its YAML header. The numbers in `facts.tables` are also in the header, as a model index."""
    name = facts.repository.rpartition("/")[2]
    data = ModelCardData(
        license=facts.license or None,
        library_name="closeupshot",
        pipeline_tag=TASK,
        tags=[*TAGS, *([] if facts.adapter is None else ["lora"])],
        base_model=list(facts.base_model) or None,
        base_model_relation=None if facts.adapter is None else "adapter",
        model_name=name if any(_results(table) for table in facts.tables) else None,
        eval_results=[result for table in facts.tables for result in _results(table)] or None,
    )
    sections = [
        f"# {name}",
        f"A {'' if facts.adapter is None else 'LoRA of a '}point-conditioned video diffusion model for close-up views "
        f"from a few photographs, in the format of the package `closeupshot`, after the paper [CloseUpShot]({PAPER}).",
        _use(facts) if facts.adapter is None else _use_of_adapter(facts),
        _parts(facts.model) if facts.adapter is None else _adapter(facts.model, facts.adapter),
        _sampling(facts.model.sampling) if facts.model.sampling else "",
        _training(facts),
        _measured(facts.tables),
        _limits(facts),
    ]
    content = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(section for section in sections if section) + "\n"
    # Parse it as the Hub will: an invalid YAML header fails here.
    return str(ModelCard(content)).rstrip() + "\n"


def _results(table: Table) -> list[EvalResult]:
    slug = re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-") or "evaluation"
    scenes = table.scenes[0] if len(table.scenes) == 1 else f"{len(table.scenes)} scenes"
    labels = {column.name: column for column in table.columns}
    return [
        EvalResult(
            task_type=TASK,
            task_name=f"Close-up novel view synthesis, {row.label.lower()}",
            dataset_type=slug,
            dataset_name=f"{table.title} on {scenes}" + (f", {table.group}" if table.group else ""),
            # This separates the numbers of several rows on the same cases.
            dataset_config=row.label,
            dataset_split=table.group or None,
            metric_type=name,
            metric_name=labels[name].label + (f" ({labels[name].unit})" if labels[name].unit else ""),
            metric_value=round(mean, labels[name].decimals),
        )
        for row in table.rows
        if row.own
        for name, (mean, _) in row.scores.items()
    ]


def _use(facts: CardFacts) -> str:
    variants = "".join(
        f"\nWeights in {name}: `--variant {name}`, `variant={name!r}`.\n" for name in facts.model.variants
    )
    return f"""## Use

With the package `closeupshot` installed:

```
cus-infer --views a.jpg b.jpg --model {facts.repository}
```

```python
from cus.diffusion import CloseUpShotPipeline

pipeline = CloseUpShotPipeline.from_pretrained("{facts.repository}")
frames = pipeline(photographs, conditioning)  # [V, 3, H', W'] and [T, 3, H, W] in [0, 1] -> [T, 3, H, W]
```
{variants}""".rstrip()


def _use_of_adapter(facts: CardFacts) -> str:
    base = facts.base_model[0] if facts.base_model else "MODEL"
    return f"""## Use

With the package `closeupshot` and peft installed (`pip install "closeupshot[lora]"`):

```
cus-infer --views a.jpg b.jpg --model {base} --lora {facts.repository}
```

```python
from cus.diffusion import CloseUpShotPipeline

pipeline = CloseUpShotPipeline.from_pretrained("{base}")
pipeline.load_lora_weights("{facts.repository}")
```"""


def _adapter(model: ModelFacts, adapter: AdapterFacts) -> str:
    count = sum(model.parameters.values())
    lines = ["## The LoRA", "", f"{_count(count, 'parameter')} in {_count(adapter.layers, 'layer')} of the U-Net,"]
    lines += [f"stored as {', '.join(model.precisions)}."]
    if adapter.settings:
        lines += ["", "| setting | value |", "| --- | --- |"]
        lines += [f"| `{name}` | {_word(value)} |" for name, value in adapter.settings.items()]
    return "\n".join(lines)


def _parts(model: ModelFacts) -> str:
    lines = ["## Parts", "", "| part | parameters |", "| --- | ---: |"]
    lines += [f"| `{name}` | {count:,} |" for name, count in model.parameters.items()]
    lines += [f"| all | {sum(model.parameters.values()):,} |", "", f"Stored as {', '.join(model.precisions)}."]
    return "\n".join(lines)


def _sampling(sampling: Mapping[str, Any]) -> str:
    lines = ["## Sampling defaults", "", "| setting | value |", "| --- | --- |"]
    lines += [f"| `{name}` | {_word(value)} |" for name, value in sampling.items()]
    return "\n".join(lines)


def _training(facts: CardFacts) -> str:
    start = f"It started from {', '.join(facts.base_model)}.\n\n" if facts.base_model else ""
    if not facts.training:
        return f"## Training\n\n{start}How it was trained is not recorded here."
    parts = ["## Training", "", *([start.strip(), ""] if start else [])]
    for stage in facts.training:
        steps = "a number of steps that is not recorded" if stage.steps is None else f"{stage.steps:,} steps"
        parts += [f"**{stage.name}**: {steps}. Data: {stage.data or 'not recorded'}.", ""]
        parts += ["| setting | value |", "| --- | --- |"]
        parts += [f"| `{name}` | {_word(value)} |" for name, value in stage.settings.items()]
        parts += [""]
    return "\n".join(parts).rstrip()


def _measured(tables: Sequence[Table]) -> str:
    if not tables:
        return "## Measured\n\nNo measurement is recorded here."
    parts = ["## Measured"]
    for table in tables:
        scenes = ", ".join(table.scenes[:8]) + (f" and {len(table.scenes) - 8} more" if len(table.scenes) > 8 else "")
        group = f", {table.group}" if table.group else ""
        parts += [
            "",
            f"### {table.title}{group}",
            "",
            f"{_count(table.cases, 'case')} in {_count(len(table.scenes), 'scene')}: {scenes}.",
        ]
        parts += ["", *_table(table)]
        parts += ["", " ".join(table.notes)] if table.notes else []
        parts += [f"Measured with {table.source}."] if table.source else []
    return "\n".join(parts)


def _table(table: Table) -> list[str]:
    heads = [
        f"{c.label} {'↑' if c.higher_is_better else '↓'}" + (f" ({c.unit})" if c.unit else "") for c in table.columns
    ]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for row in table.rows:
        cells = []
        for column in table.columns:
            mean, interval = row.scores.get(column.name, (None, None))
            text = "–" if mean is None else f"{mean:.{column.decimals}f}"
            if interval is not None:
                text += f" [{interval[0]:.{column.decimals}f}, {interval[1]:.{column.decimals}f}]"
            cells.append(text)
        label = f"**{row.label}** (this model)" if row.own else row.label
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _limits(facts: CardFacts) -> str:
    sampling = facts.model.sampling
    lines = ["## Limits", ""]
    if {"frames", "width", "height"} <= set(sampling):
        lines.append(
            f"- Made for clips of {sampling['frames']} frames at {sampling['width']}x{sampling['height']}; longer "
            "paths are made in chunks that share their end frames."
        )
    lines += [
        "- Photographs must overlap and show parallax; water, glass, mirrors and moving things confuse the estimate of "
        "depth that the frames rest on.",
        "- Where no photograph shows the scene, what the frames show is invented.",
    ]
    if not facts.tables:
        lines.append("- How good its frames are has not been recorded here; measure it with `cus-eval`.")
    if not facts.license:
        lines.append("- Its licence is not stated here: ask its authors before use.")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_word(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
