import pytest


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "datasets/downloads/manual").mkdir(parents=True)
    return tmp_path / "datasets"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("the network was used")

    monkeypatch.setattr("requests.Session.send", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
