"""Networks and the transfer of weights, key by key against torchvision."""

import pytest
import torch
import torchvision

from l3muscle.models import BACKBONES, TransferError, build_fcn, build_trunk, transfer_weights


@pytest.fixture(scope="module")
def resnet18_checkpoint():
    torch.manual_seed(1)
    network = torchvision.models.resnet18(weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(7)
    return network.state_dict()


@pytest.mark.parametrize(("name", "stride"), [("resnet10", 4), ("resnet18", 8), ("resnet34", 8), ("resnet50", 8)])
def test_logits_have_the_size_of_the_input(name, stride):
    network = build_fcn(name, output_stride=stride, out_channels=3).eval()
    image = torch.zeros(1, 3, 50, 67)
    with torch.inference_mode():
        assert network(image).shape == (1, 3, 50, 67)
        assert network.backbone(image).shape[-2:] == (-(-50 // stride), -(-67 // stride))


def test_parameters_are_named_and_shaped_as_in_torchvision():
    ours = build_fcn("resnet101").state_dict()
    theirs = torchvision.models.segmentation.fcn_resnet101(
        weights=None, weights_backbone=None, num_classes=1, aux_loss=False
    ).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {n: v.shape for n, v in theirs.items()}


def test_resnet101_computes_what_torchvision_computes():
    theirs = torchvision.models.segmentation.fcn_resnet101(
        weights=None, weights_backbone=None, num_classes=1, aux_loss=False
    ).eval()
    ours = build_fcn("resnet101").eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image)["out"])


def test_undilated_basic_network_computes_what_torchvision_computes(resnet18_checkpoint):
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.load_state_dict(resnet18_checkpoint)
    ours = build_trunk("resnet18").eval()
    ours.load_state_dict({k: v for k, v in resnet18_checkpoint.items() if not k.startswith("fc.")})
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    # Only the first two stages agree by value: the last two are dilated here instead of strided.
    with torch.inference_mode():
        expected = theirs.layer2(theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))))
        got = image
        for name, module in ours.named_children():
            if name == "layer3":
                break
            got = module(got)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_convolution_gets_a_gradient(name):
    torch.manual_seed(0)
    network = build_fcn(name)
    network(torch.randn(2, 3, 32, 32)).square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or (p.ndim == 4 and not p.grad.any())]
    assert silent == []


def test_classification_checkpoint_moves_key_by_key(resnet18_checkpoint):
    network = build_fcn("resnet18")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = transfer_weights(resnet18_checkpoint, network)
    after = network.state_dict()
    for name, value in resnet18_checkpoint.items():
        if name.startswith("fc."):
            assert name in report.not_moved
        else:
            assert torch.equal(after[f"backbone.{name}"], value), name
            assert f"backbone.{name}" in report.moved
    assert set(report.left_random) == {name for name in before if name.startswith("classifier.")}
    assert all(torch.equal(after[name], before[name]) for name in report.left_random)


def test_segmentation_checkpoint_moves_all_but_its_classes():
    torch.manual_seed(2)
    source = build_fcn("resnet10", width=8, out_channels=21)
    checkpoint = {**source.state_dict(), "aux_classifier.0.weight": torch.zeros(2)}
    network = build_fcn("resnet10", width=8)
    report = transfer_weights(checkpoint, network)
    assert set(report.not_moved) == {"classifier.4.weight", "classifier.4.bias", "aux_classifier.0.weight"}
    assert "(21, 16, 1, 1)" in report.not_moved["classifier.4.weight"]
    assert set(report.left_random) == {"classifier.4.weight", "classifier.4.bias"}
    assert torch.equal(network.classifier[0].weight, source.classifier[0].weight)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: {"encoder." + k: v for k, v in c.items()}, "foreign"),
        (lambda c: {**c, "conv1.weight": torch.zeros(8, 3, 7, 7)}, "another architecture"),
        (lambda c: {**c, "conv1.weight": torch.full((64, 3, 7, 7), torch.nan)}, "not finite"),
        (lambda c: {**c, "epoch": 3}, "not a tensor"),
        (lambda c: {}, "foreign"),
    ],
)
def test_refused_checkpoints_leave_the_network_untouched(resnet18_checkpoint, damage, message):
    network = build_fcn("resnet18")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(TransferError, match=message):
        transfer_weights(damage(dict(resnet18_checkpoint)), network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "vgg16"},
        {"name": "resnet101", "output_stride": 4},
        {"name": "resnet18", "output_stride": 2},
        {"name": "resnet18", "width": 4},
    ],
)
def test_unsupported_networks_are_refused(arguments):
    with pytest.raises(ValueError):
        build_fcn(**arguments)


def test_a_transfer_says_why_each_tensor_stayed_behind(resnet18_checkpoint):
    report = transfer_weights(resnet18_checkpoint, build_fcn("resnet18"))
    assert set(report.not_moved.values()) == {"the target network has no such layer"}
    with pytest.raises(TransferError, match="^the checkpoint holds 'epoch', which is a int and not a tensor$"):
        transfer_weights({**resnet18_checkpoint, "epoch": 3}, build_fcn("resnet18"))
    with pytest.raises(TransferError, match="^the checkpoint is foreign: none"):
        transfer_weights({}, build_fcn("resnet18"))
