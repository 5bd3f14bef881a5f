"""Build one-frame clips from posed photographs: shrunk references, full-resolution crops of held-out ones.

    python data/make_cases.py out=runs/validation "scenes=[castle,door]" cases=4

They validate a training (`held_out=runs/validation`); where licences permit, they may also be used for training. The
same command resumes where it stopped. `others=[hierarchical,low,high]` adds the paper's warps to the fused one.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Build missing clips."""
    from cus.evaluation.case_clips import CaseClips, build
    from cus.training.scripts import settings_of

    build(settings_of(CaseClips, arguments), counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/make_cases.py", __doc__, sys.argv[1:]))
