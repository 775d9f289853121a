"""What a user sees of the dial: over HTTP, in the pictures' pixels."""
import pytest
from graphs import changed, forget, load, pixels, without_guidance

from devtools.server import RunFailed


@pytest.fixture(scope="module")
def base_pixels(server):
    return pixels(server, without_guidance(load(), "model"))


def scaled(scale):
    return changed(load(), "RLGApply", scale=scale)


def test_scale_0_is_the_base_model(server, base_pixels):
    assert pixels(server, scaled(0)) == base_pixels


def test_scale_1_is_the_rl_model(server):
    guided, plain = pixels(server, scaled(1)), pixels(server, without_guidance(load(), "rl_model"))
    assert max(abs(a - b) for a, b in zip(guided, plain, strict=True)) <= 1


def test_each_scale_gives_another_picture(server):
    assert len({pixels(server, scaled(scale)) for scale in (0, 0.5, 1, 1.5, 2, 3)}) == 6


def test_the_same_graph_gives_the_same_picture(server):
    first = pixels(server, scaled(1.5))
    forget(server)
    assert pixels(server, scaled(1.5)) == first


def test_interrupting_ends_the_run_and_leaves_nothing_behind(server, base_pixels):
    long = changed(scaled(2), "KSampler", steps=2000)

    def interrupt(node, value, steps):
        assert value < 1000, "the run goes on"
        if value >= 3:
            server.read("/interrupt", {})

    with pytest.raises(RunFailed, match="interrupted in KSampler"):
        pixels(server, long, interrupt)
    forget(server)
    assert pixels(server, without_guidance(load(), "model")) == base_pixels


def test_an_error_reaches_the_client_with_the_file_and_the_way_out(server):
    folder = server.folder / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "broken.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(RunFailed) as failure:
        server.run(changed(load(), "RLGAdapterLoader", lora_name="broken.safetensors"))
    assert failure.value.detail["node_type"] == "RLGAdapterLoader"
    assert "broken.safetensors" in failure.value.detail["exception_message"]


def test_a_graph_without_an_rl_model_is_refused_before_it_runs(server):
    graph = load()
    del next(node for node in graph.values() if node["class_type"] == "RLGApply")["inputs"]["rl_model"]
    with pytest.raises(RunFailed, match="rl_model"):
        server.run(graph)
