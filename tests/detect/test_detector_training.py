"""A training as a whole: it learns, repeats itself, goes on, and leaves a detector."""

import numpy as np
import pytest
import torch
from shapes import learner, shapes

from lxmert_dist.detect import load_detector
from lxmert_dist.detect.training import DetectorTrainer, check_images, validate
from lxmert_dist.detect.training.batches import load_example
from lxmert_dist.errors import CheckpointError, DataError, NonFiniteLossError
from lxmert_dist.opening import open_image


def same(a: DetectorTrainer, b: DetectorTrainer) -> bool:
    one, other = a.network().state_dict(), b.network().state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_two_images_are_learned_by_heart_and_the_saved_detector_finds_them(tmp_path):
    images, config = shapes(0), learner()
    trainer = DetectorTrainer(config, images)
    before = validate(trainer.network(), images, config.training.object_names)["map50"]
    losses = [trainer.take_step()["loss"] for _ in range(config.training.steps)]
    assert losses[-1] < losses[0] / 4
    after = validate(trainer.network(), images, config.training.object_names)
    assert before < 0.5
    assert after["map50"] == 1
    assert after["attribute_accuracy"] == 1
    trainer.save_detector(tmp_path)
    detector = load_detector(tmp_path)
    for image in images:
        (record,) = detector.detect(["x"], [open_image(image.source)])
        right = np.argsort(record.object_ids)
        assert record.object_ids[right].tolist() == [0, 1]
        assert record.attribute_ids[right].tolist() == image.attribute_ids.tolist()
        worst = np.abs(record.boxes[right] * [128, 96, 128, 96] - image.boxes).max()
        assert worst < 12  # pixels


def test_a_training_repeats_itself_bit_for_bit_and_depends_on_its_seed():
    images = shapes(1, 4)
    one, again, other = (DetectorTrainer(learner(seed=seed), images) for seed in (7, 7, 8))
    for trainer in (one, again, other):
        torch.rand(3)  # what else is drawn does not matter
        for _ in range(3):
            trainer.take_step()
    assert same(one, again)
    assert not same(one, other)


def test_a_training_that_goes_on_is_the_one_that_never_stopped(tmp_path):
    images, file = shapes(1, 5), tmp_path / "training" / "state.safetensors"
    straight, first = (DetectorTrainer(learner(), images) for _ in range(2))
    for _ in range(3):
        first.take_step()
    first.save_state(file)
    second = DetectorTrainer(learner(), images)
    second.resume(file)
    assert second.step == 3
    for _ in range(3):
        second.take_step()
    for _ in range(6):
        straight.take_step()
    assert same(straight, second)


def test_what_a_training_cannot_go_on_from_is_refused(tmp_path):
    file = tmp_path / "state.safetensors"
    trainer = DetectorTrainer(learner(), shapes(1))
    trainer.take_step()
    trainer.save_state(file)
    for other in (
        DetectorTrainer(learner(learning_rate=1e-4), shapes(1)),
        DetectorTrainer(learner(), shapes(2)),
    ):
        with pytest.raises(CheckpointError, match="other settings or images"):
            other.resume(file)
    DetectorTrainer(learner(log_every=1), shapes(1)).resume(file)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="delete it to begin again"):
        trainer.resume(file)


def test_a_loss_that_is_not_finite_stops_before_the_weights_move():
    trainer = DetectorTrainer(learner(), shapes(1))
    trainer._network.regions.object_score.weight.data[0, 0] = float("nan")
    bias = trainer._network.regions.object_score.bias.clone()
    with pytest.raises(NonFiniteLossError, match=r"step 0: .*object nan"):
        trainer.take_step()
    assert torch.equal(bias, trainer._network.regions.object_score.bias)


def test_a_mirrored_image_has_mirrored_boxes():
    (image,) = shapes(4, 1)
    config = learner().input
    pixels, things = load_example(image, config)
    mirrored, moved = load_example(image, config, flipped=True)
    torch.testing.assert_close(mirrored.flip(3), pixels)
    for box, other in zip(things.boxes.int().tolist(), moved.boxes.int().tolist(), strict=True):
        part = pixels[0, :, box[1] : box[3], box[0] : box[2]]
        torch.testing.assert_close(
            mirrored[0, :, other[1] : other[3], other[0] : other[2]].flip(2), part
        )


def test_images_that_cannot_be_learned_from_are_named():
    (image,) = shapes(4, 1)
    with pytest.raises(DataError, match="no image to learn from"):
        check_images([])
    beyond = image.boxes + np.float32(100)
    for bad, message in (
        ({"boxes": beyond}, "image 0: a box is empty or not within 128x96"),
        ({"boxes": image.boxes[:, [2, 1, 0, 3]]}, "image 0: a box is empty"),
        ({"source": bytes(image.source)[:-40]}, "image 0: truncated or damaged"),
    ):
        with pytest.raises(DataError, match=message):
            check_images([image, type(image)(**(vars(image) | bad))])
