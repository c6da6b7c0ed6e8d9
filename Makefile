# make demo: watch W2SD beside its weak and strong versions; make demo-vbench: score and compare them; make test:
# everything that is checked.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-image demo-bridge demo-digits demo-vbench theory diagnose test test-slow pipelines real-size bench \
    wheel score score-methods score-bridge score-digits score-gaps score-faster score-arena score-dataset-gap format clean

demo: .venv/ready
	$(BIN)/python scripts/generate_video.py --output outputs/demo
	$(BIN)/python scripts/score_demo.py --read outputs/demo

demo-image: .venv/ready
	$(BIN)/python scripts/generate_image.py --output outputs/demo-image

demo-bridge: .venv/ready
	$(BIN)/python scripts/bridge_image.py --output outputs/demo-bridge

demo-digits: .venv/ready
	$(BIN)/python scripts/sample_dit_moe.py --guidance 1 --reflections 20 --expert-load --output outputs/demo-digits

# The whole way of an evaluation with the bundled pair and no weights: prompts, videos, scores, comparison.
VBENCH := outputs/demo-vbench
demo-vbench: .venv/ready
	$(BIN)/python scripts/evaluate_vbench.py prompts --suite sample --dimensions all --samples 1 --output $(VBENCH)
	$(BIN)/python scripts/generate_video.py --prompts $(VBENCH)/prompts.txt --methods weak,strong,w2sd --steps 10 \
	    --output $(VBENCH)/videos
	for method in weak strong w2sd; do $(BIN)/python scripts/evaluate_vbench.py score $(VBENCH)/videos/$$method \
	    --manifest $(VBENCH)/manifest.json --output $(VBENCH)/scores --quiet || exit; done
	$(BIN)/python scripts/evaluate_vbench.py compare $(VBENCH)/scores/strong_report.json \
	    $(VBENCH)/scores/weak_report.json $(VBENCH)/scores/w2sd_report.json --output $(VBENCH)/comparison

theory: .venv/ready
	$(BIN)/python scripts/theory.py

diagnose: .venv/ready
	$(BIN)/python scripts/diagnose.py --output outputs/diagnosis

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# dist/w2sd_video-*.whl, built without a network; its contents and what runs from it alone are checked
wheel: .venv/ready
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .
	$(BIN)/python -m pytest -m slow tests/conformance/test_wheel.py
	ls -l dist

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

# docs/pipelines.md: which pipelines and schedulers can be reflected, measured on small random networks
pipelines: .venv/ready
	$(BIN)/python -m tests.support.pipelines_page

# docs/results/real-size.md: SDXL, Flux and DiT-MoE at true size with random weights, their memory and seconds (27 GB of disk)
real-size: .venv/ready
	$(BIN)/python -m tests.support.real_size

bench: .venv/ready
	$(BIN)/python scripts/benchmark_start.py
	$(BIN)/python scripts/benchmark.py
	$(BIN)/python scripts/benchmark_bridge.py
	$(BIN)/python scripts/benchmark_moe.py
	$(BIN)/python scripts/benchmark_lora.py
	$(BIN)/python scripts/benchmark_vbench.py

score: .venv/ready
	$(BIN)/python scripts/score_demo.py

score-methods: .venv/ready
	$(BIN)/python scripts/score_methods.py

score-bridge: .venv/ready
	$(BIN)/python scripts/score_bridge.py

score-digits: .venv/ready
	$(BIN)/python scripts/score_digits.py

score-gaps: .venv/ready
	$(BIN)/python scripts/score_gaps.py

score-faster: .venv/ready
	$(BIN)/python scripts/score_faster.py

score-arena: .venv/ready
	$(BIN)/python scripts/train_still.py
	$(BIN)/python scripts/score_arena.py

score-dataset-gap: .venv/ready
	$(BIN)/python scripts/score_dataset_gap.py

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, got " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch .venv/ready

clean:
	rm -rf .venv outputs build dist *.egg-info
