"""Encode clips once for training.

    python data/cache_latents.py clips=runs/clips out=runs/latents vae=runs/vae/export
    python data/cache_latents.py clips=runs/clips out=runs/generated pipeline=runs/unet/export

With `pipeline` the cache holds the latents that the model generates for each clip, on which the decoder is trained
(Section III-D); with `structure=runs/coarse` as well, those of its second pass. Clips that have a cache are skipped.
They are divided among the processes started by accelerate or torchrun, or by `part=0 parts=4`.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Make missing caches."""
    from cus.training.caches import Caches, build
    from cus.training.scripts import settings_of

    build(settings_of(Caches, arguments), counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/cache_latents.py", __doc__, sys.argv[1:]))
