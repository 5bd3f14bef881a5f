"""One process of a recipe, which ends itself by SIGKILL when it is told of something: what tests start by Accelerate.

accelerate launch -m tests.training.recipe_process settings.yaml ["words" [rank]]
"""

import os
import signal
import sys

from cus.training.recipe import run
from cus.training.recipe_jobs import Recipe
from cus.training.scripts import settings_of

if __name__ == "__main__":
    words, rank = (*sys.argv[2:], "", "")[:2]

    def on_progress(done: int, total: int, told: str) -> None:
        """As a recipe's."""
        if words and told.startswith(words) and os.environ["RANK"] == rank:
            os.kill(os.getpid(), signal.SIGKILL)

    run(settings_of(Recipe, [sys.argv[1]]), on_progress, lambda line: None)
