"""The model card: README.md of a model's repository, from plain data. Unknown facts are omitted, or stated as such."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
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
    """README.md with its YAML header, from the template `card.md`.

    The numbers in `facts.tables` are also in the header, as a model index.
    """
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
    loader = jinja2.PackageLoader("cus.hub", ".")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )
    environment.filters |= {"counted": _counted, "word": _word, "score": _score}
    content = environment.get_template("card.md").render(facts=facts, name=name, paper=PAPER, header=data.to_yaml())
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


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _score(row: Row, column: Column) -> str:
    """A row's mean of a metric with its interval, as printed."""
    mean, interval = row.scores.get(column.name, (None, None))
    text = "–" if mean is None else f"{mean:.{column.decimals}f}"
    if interval is not None:
        text += f" [{interval[0]:.{column.decimals}f}, {interval[1]:.{column.decimals}f}]"
    return text


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_word(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
