.PHONY: check format test test-slow

check:  ## what CI holds every commit to
	ruff format --check .
	ruff check .
	pyright

format:
	ruff format .
	ruff check --fix .

test:  ## what runs in a few minutes
	pytest -n 2 -m "not slow"

test-slow:  ## the rest
	pytest -n 2 -m slow
