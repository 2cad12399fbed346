"""Networks and the transfer of weights, key by key against torchvision."""

import pytest
import torch
import torchvision

from l3muscle.models import (
    BACKBONES,
    BASIC_LAYERS,
    EFFICIENTNETS,
    BasicBlock,
    TransferError,
    build_encoder,
    build_fcn,
    transfer_weights,
)


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


@pytest.mark.parametrize(
    ("name", "stride", "width"),
    [("resnet8", 2, 5), ("resnet8", 4, 5), ("resnet10", 4, 8), ("resnet34", 8, 12), ("resnet50", 8, 64)],
)
def test_logits_have_the_size_of_the_input(name, stride, width):
    network = build_fcn(name, width=width, output_stride=stride, out_channels=3).eval()
    image = torch.randn(1, 3, 50, 67, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = network.backbone(image)
        assert features.shape[1:] == (network.backbone.out_channels, -(-50 // stride), -(-67 // stride))
        small = network.classifier(features)
        large = torch.nn.functional.interpolate(small, size=(50, 67), mode="bilinear", align_corners=False)
        assert torch.equal(network(image), large) and large.shape == (1, 3, 50, 67)


def test_resnet101_is_torchvisions_by_name_shape_and_value():
    theirs = torchvision.models.segmentation.fcn_resnet101(
        weights=None, weights_backbone=None, num_classes=1, aux_loss=False
    ).eval()
    ours = build_fcn("resnet101").eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image)["out"])


def test_undilated_stages_of_a_basic_network_compute_what_torchvision_computes(resnet18_checkpoint):
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.load_state_dict(resnet18_checkpoint)
    ours = build_encoder("resnet18").eval()
    ours.load_state_dict({k: v for k, v in resnet18_checkpoint.items() if not k.startswith("fc.")})
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    # Only the first two stages agree by value: the last two are dilated here instead of strided.
    with torch.inference_mode():
        expected = theirs.layer2(theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))))
        got = torch.nn.Sequential(*list(ours)[: [name for name, _ in ours.named_children()].index("layer3")])(image)
    torch.testing.assert_close(got, expected)


def test_output_stride_2_adds_up_what_torchvisions_stages_compute(resnet18_checkpoint):
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.load_state_dict(resnet18_checkpoint)
    ours = build_fcn("resnet18", output_stride=2).eval()
    report = transfer_weights(resnet18_checkpoint, ours)
    assert all(name.startswith(("classifier", "backbone.skips")) for name in report.left_random)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features, expected = theirs.relu(theirs.bn1(theirs.conv1(image))), 0
        stages = theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4
        for stage, skip in zip(stages, ours.backbone.skips, strict=True):
            features = stage(features)
            wide = torch.nn.functional.interpolate(skip(features), size=(32, 48), mode="bilinear", align_corners=False)
            expected = expected + wide
        torch.testing.assert_close(ours.backbone(image), expected)


def test_a_basic_block_is_torchvisions_with_a_strided_shortcut():
    torch.manual_seed(3)
    ours, theirs = BasicBlock(8, 16, stride=2), torchvision.models.resnet.BasicBlock(8, 16, 2)
    theirs.downsample = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 1, 2, bias=False), torch.nn.BatchNorm2d(16))
    theirs.load_state_dict(ours.state_dict())
    for size in (9, 10):
        image = torch.randn(2, 8, size, size)
        torch.testing.assert_close(ours(image), theirs(image))
        for block in (ours, theirs):
            block.zero_grad()
            block(image).square().sum().backward()
        for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3, msg=name)
    assert BasicBlock(8, 8, dilation=3).downsample is None and BasicBlock(8, 8, stride=2).downsample is not None


@pytest.mark.parametrize("name", BACKBONES)
def test_every_convolution_gets_a_gradient(name):
    torch.manual_seed(0)
    for stride in (2, 4) if name in BASIC_LAYERS else (4,) if name in EFFICIENTNETS else (8,):
        network = build_fcn(name, output_stride=stride)
        network(torch.randn(2, 3, 32, 32)).square().mean().backward()
        silent = [n for n, p in network.named_parameters() if p.grad is None or (p.ndim == 4 and not p.grad.any())]
        assert silent == []


@pytest.mark.parametrize(
    ("name", "blocks", "dilations"),
    [
        # Dilation of each block of each stage.
        ("resnet8", (1, 1, 1), ((1,), (1,), (2,))),
        ("resnet10", (1, 1, 1, 1), ((1,), (1,), (1,), (2,))),
        ("resnet18", (2, 2, 2, 2), ((1, 1), (1, 1), (1, 2), (2, 4))),
        ("resnet34", (3, 4, 6, 3), ((1, 1, 1), (1, 1, 1, 1), (1, 2, 2, 2, 2, 2), (2, 4, 4))),
    ],
)
@pytest.mark.parametrize("stride", [4, 8])
def test_basic_networks_are_built_as_the_papers_have_them(name, blocks, dilations, stride):
    encoder = build_encoder(name, width=16, output_stride=stride)
    stages = [f"layer{index + 1}" for index in range(len(blocks))]
    names = [child for child, _ in encoder.named_children()]
    assert names == ["conv1", "bn1", "relu", *(["maxpool"] if stride == 8 else []), *stages]
    assert encoder.out_channels == 16 * 2 ** (len(blocks) - 1)
    channels = 16
    for index, stage in enumerate(stages):
        members, width = getattr(encoder, stage), 16 * 2**index
        assert len(members) == blocks[index]
        for number, (block, dilation) in enumerate(zip(members, dilations[index], strict=True)):
            strided = index == 1 and number == 0  # the only stage that is not dilated instead
            assert block.conv1.stride == ((2, 2) if strided else (1, 1)) and block.conv2.stride == (1, 1)
            for convolution, incoming in ((block.conv1, channels), (block.conv2, width)):
                assert (convolution.in_channels, convolution.out_channels) == (incoming, width)
                assert convolution.dilation == convolution.padding == (dilation, dilation)
            assert (block.downsample is None) == (not strided and channels == width)
            channels = width


def test_the_head_is_torchvisions():
    theirs = torchvision.models.segmentation.fcn.FCNHead(512, 5)
    ours = build_fcn("resnet18", out_channels=5).classifier
    assert str(torch.nn.Sequential(*ours)) == str(torch.nn.Sequential(*theirs))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vgg16", {}, "^unknown backbone 'vgg16'; choose one of resnet8, resnet10, .*resnet101, efficientnet_lite0$"),
        ("resnet18", {"output_stride": 16}, "^output_stride must be 2, 4 or 8, not 16$"),
        ("resnet18", {"width": 0}, "^width must be positive, not 0$"),
        ("resnet101", {"output_stride": 4}, "^resnet101 is torchvision's network: width 64 and output stride 8"),
        ("resnet50", {"width": 32}, "^resnet50 is torchvision's network: width 64 and output stride 8 only$"),
    ],
)
def test_a_refusal_says_what_there_is(name, settings, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(name, **settings)


# --- transfer ------------------------------------------------------------------------------------------------------


def test_classification_checkpoint_moves_key_by_key(resnet18_checkpoint):
    network = build_fcn("resnet18")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = transfer_weights(resnet18_checkpoint, network)
    after = network.state_dict()
    moved = [name for name in resnet18_checkpoint if not name.startswith("fc.")]
    assert all(torch.equal(after[f"backbone.{name}"], resnet18_checkpoint[name]) for name in moved)
    assert list(report.moved) == [f"backbone.{name}" for name in moved]
    assert report.not_moved == dict.fromkeys(["fc.weight", "fc.bias"], "the target network has no such layer")
    assert set(report.left_random) == {name for name in before if name.startswith("classifier.")}
    assert all(torch.equal(after[name], before[name]) for name in report.left_random)
    said = f"{len(moved)} tensors moved, 2 of the checkpoint not used, {len(report.left_random)} of the network left"
    assert str(report) == f"{said} random"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: {"encoder." + k: v for k, v in c.items()}, "the checkpoint is foreign: none of its tensors fits"),
        (lambda c: {"classifier.1.bias": torch.zeros(128)}, "the checkpoint is foreign"),
        (lambda c: {}, "the checkpoint is foreign"),
        (
            lambda c: {**c, "bn1.bias": torch.zeros(7)},
            r"another architecture: 'bn1.bias' has shape \(7,\) in the check",
        ),
        (lambda c: {**c, "bn1.bias": torch.full((64,), torch.inf)}, "'bn1.bias' holds values that are not finite"),
        (lambda c: {**c, "epoch": 3}, "^the checkpoint holds 'epoch', which is a int and not a tensor$"),
    ],
)
def test_refused_checkpoints_leave_the_network_untouched(resnet18_checkpoint, damage, message):
    network = build_fcn("resnet18")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(TransferError, match=message):
        transfer_weights(damage(dict(resnet18_checkpoint)), network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    # A tensor that is not moved may hold anything.
    assert (
        "fc.bias"
        in transfer_weights({**resnet18_checkpoint, "fc.bias": torch.full((3,), torch.nan)}, network).not_moved
    )
