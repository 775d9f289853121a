"""Options of the fuzz test."""


def pytest_addoption(parser):
    group = parser.getgroup("fuzz")
    group.addoption("--fuzz-cases", type=int, default=3000, help="how many damaged adapters to read")
    group.addoption("--fuzz-seed", type=int, default=0, help="the number of the first of them")
