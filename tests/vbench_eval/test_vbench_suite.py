"""VBench's prompt suite is read as published, with its groups, and its traps are told."""

import hashlib
import subprocess
import sys

import pytest

from tests.support import vbench_suites
from tests.support.vbench_suites import CASES, SIZES, TWICE
from vbench_eval.errors import UserError
from vbench_eval.settings import TABLE_12 as SIX
from vbench_eval.suite import ALL_DIMENSIONS, GROUPS, read_suite
from w2sd_video.demo.captions import CAPTIONS


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return read_suite(vbench_suites.write(tmp_path_factory.mktemp("suite")))


def test_the_groups_are_vbenchs_eleven_and_hold_its_sixteen_dimensions(suite):
    assert dict(GROUPS) == SIZES
    assert len(GROUPS) == 11 and sum(GROUPS.values()) == 946 and len(ALL_DIMENSIONS) == 16
    assert suite.group_sizes() == SIZES


def test_946_entries_are_944_prompts(suite):
    assert suite.num_entries == 946
    assert len(suite.prompts) == len({prompt.prompt for prompt in suite.prompts}) == 944


@pytest.mark.parametrize("group", SIZES)
def test_dimensions_of_a_group_share_its_prompts(suite, group):
    for name in group:
        assert len(suite.of([name])) == SIZES[group]
    assert suite.of(group) == suite.of(group[:1])


def test_the_six_dimensions_of_the_papers_table_need_251_prompts(suite):
    assert len(suite.of(SIX)) == 72 + 93 + 86 == 251


def test_a_prompt_that_stands_twice_is_one_prompt_with_all_its_dimensions_and_both_entries(suite):
    (found,) = [prompt for prompt in suite.prompts if prompt.prompt == TWICE[0]]
    assert found.dimensions == ("overall_consistency", "aesthetic_quality", "imaging_quality", "appearance_style")
    assert [entry["dimension"] for entry in found.entries] == [list(found.dimensions[:3]), ["appearance_style"]]
    assert found.id == "p0073"  # after the 72 of the first group


def test_entries_are_kept_letter_for_letter(suite):
    original = {entry["prompt_en"]: entry for entry in vbench_suites.entries()}
    for prompt in suite.of(["color"]):
        assert prompt.entries == (original[prompt.prompt],)
        assert prompt.entries[0]["auxiliary_info"] == {"color": {"color": "red"}}


def test_the_hash_is_that_of_the_files_bytes(suite):
    assert suite.sha256 == hashlib.sha256(suite.path.read_bytes()).hexdigest()


def test_repeats_and_names_that_collide_are_told_and_nothing_else(suite):
    repeats, case = suite.warnings()
    assert "2 prompts stand in the suite more than once" in repeats and all(prompt in repeats for prompt in TWICE)
    assert all(prompt in case for prompt in CASES) and "case" in case


def test_prompts_that_differ_only_in_unicode_form_are_told(tmp_path):
    content = [{"prompt_en": text, "dimension": ["color"]} for text in ("caf\u00e9", "cafe\u0301")]
    told = read_suite(vbench_suites.write(tmp_path, content)).warnings()
    assert any("caf\u00e9" in line and "Unicode form" in line for line in told)


def test_a_suite_of_other_sizes_or_dimensions_or_unusable_names_is_told(tmp_path):
    content = [{"prompt_en": "a/b", "dimension": ["color", "camera_motion"]}]
    told = " ".join(read_suite(vbench_suites.write(tmp_path, content)).warnings())
    assert "camera_motion" in told and "color 1 instead of 85" in told and "'a/b' cannot be a file name" in told


def test_the_file_is_found_in_a_folder_and_with_a_byte_order_mark(tmp_path, suite):
    path = vbench_suites.write(tmp_path / "checkout" / "vbench")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_suite(tmp_path / "checkout").prompts == suite.prompts


def test_an_installed_vbench_is_found_without_running_its_code(tmp_path):
    package = tmp_path / "site" / "vbench"
    vbench_suites.write(package)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    program = "from vbench_eval.suite import read_suite; suite = read_suite(); print(len(suite.prompts), suite.source)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(package.parent)!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["944", "vbench", "(version", "unknown)"]


def test_without_a_file_and_without_vbench_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"VBench_full_info\.json.*'sample'"):
        read_suite()


def test_the_sample_suite_holds_captions_that_the_demo_pair_knows():
    sample = read_suite("sample")
    assert len(sample.prompts) == 12 and sample.warnings() == ()
    assert {prompt.prompt for prompt in sample.prompts} <= set(CAPTIONS)
    assert set(sample.dimensions) == {*SIX, "overall_consistency", "scene", "temporal_flickering"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"prompt_en": "a"}, "not a list"),
        ([], "empty"),
        (["a cat"], "entry 1 has no text prompt_en"),
        ([{"prompt_en": "a", "dimension": ["color"]}, {"prompt_en": " ", "dimension": ["color"]}], "entry 2"),
        ([{"prompt_en": "a"}], "dimension is None"),
        ([{"prompt_en": "a", "dimension": "color"}], "dimension is 'color'"),
        ([{"prompt_en": "a", "dimension": []}], r"dimension is \[\]"),
    ],
)
def test_a_file_of_another_layout_is_refused_with_the_place(tmp_path, content, says):
    with pytest.raises(UserError, match=says):
        read_suite(vbench_suites.write(tmp_path, content))


@pytest.mark.parametrize("data", [b"\xff\xfe[", b"[{", b"[" * 200_000, b"[1e", b'[{"prompt_en": "' + b"9" * 5000])
def test_damaged_files_are_refused(tmp_path, data):
    (path := tmp_path / "suite.json").write_bytes(data)
    with pytest.raises(UserError, match=r"suite\.json"):
        read_suite(path)


def test_a_missing_file_and_an_unknown_dimension_are_refused(tmp_path, suite):
    with pytest.raises(UserError, match="cannot be read"):
        read_suite(tmp_path / "absent.json")
    with pytest.raises(UserError, match="no prompt for beauty"):
        suite.of(["color", "beauty"])


def test_reading_a_suite_loads_no_torch():
    program = "import sys; from vbench_eval import suite, manifest, results, folders; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "PIL", "av", "transformers", "vbench"} & set(loaded)
