.PHONY: check docs format test test-slow

check:  ## what CI holds every commit to
	ruff format --check .
	ruff check .
	pyright

docs:  ## the site, into site/; a broken link or anchor fails (needs the extra `docs`)
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

format:
	ruff format .
	ruff check --fix .

test:  ## what runs in a few minutes
	pytest -n 2 -m "not slow"

test-slow:  ## the rest
	pytest -n 2 -m slow
