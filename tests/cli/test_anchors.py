"""Heads that are kept elsewhere, and their time stamps."""

import json
import random
from pathlib import Path

import click
import pytest
from metamorphd.cli.anchors import read_anchors

from tests.support.forged_stamps import BACKUP_HEADS, FORGERIES, HEADS, LINES, STAMPS, StampedFile


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> StampedFile:
    return StampedFile(tmp_path_factory.mktemp("stamps"))


@pytest.mark.parametrize("name", FORGERIES)
def test_every_alteration_of_stamped_heads_is_found(file: StampedFile, name: str) -> None:
    randomness = random.Random(name)  # noqa: S311, repeatable
    for _ in range(25):
        assert file.found(FORGERIES[name], randomness)


def test_what_was_not_altered_is_good_with_all_its_heads(file: StampedFile) -> None:
    judged = file.judged()
    assert [stamp.fault for stamp in judged] == [""] * (STAMPS + 1)
    assert [len(stamp.heads) for stamp in judged] == [LINES * HEADS] * STAMPS + [BACKUP_HEADS]


@pytest.mark.parametrize(
    "line",
    [
        {"heads": [["acme", 1]]},
        {"heads": [["acme", "one", "a" * 64]]},
        {"heads": [["acme", 1, "a" * 63]]},
        {"heads": [["acme", 1, "A" * 64]]},
        {"heads": 1},
        {"digests": ["a" * 64], "stamp": "not base64"},
        {"digests": ["xy"], "stamp": "aaaa"},
        {"stamp": "aaaa"},
        {"digests": "heads", "stamp": 1},
    ],
)
def test_a_line_that_makes_no_sense_is_refused(tmp_path: Path, line: object) -> None:
    path = tmp_path / "heads"
    path.write_text(f'{{"heads": [["acme", 1, "{"a" * 64}"]]}}\n{json.dumps(line)}\n')
    with pytest.raises(click.ClickException, match="line 2 of"):
        read_anchors(path)
