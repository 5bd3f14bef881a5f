.PHONY: check format test

check:  ## what CI holds every commit to
	ruff format --check .
	ruff check .
	pyright

format:
	ruff format .
	ruff check --fix .

test:
	pytest
