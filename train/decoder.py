"""Train the decoder with skips; everything else is frozen.

    python train/decoder.py configs/mini/decoder.yaml out=runs/decoder init=... clips=... generated=...

`accelerate launch train/decoder.py ...` uses all GPUs. The same command resumes where it stopped.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Train and export the pipeline to `<out>/export`."""
    from cus.training.decoder import DecoderConfig, DecoderStage
    from cus.training.scripts import train_stage

    train_stage(DecoderConfig, DecoderStage, arguments, counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "train/decoder.py", __doc__, sys.argv[1:]))
