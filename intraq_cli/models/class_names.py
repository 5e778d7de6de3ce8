"""Human-readable names of a network's classes."""

from intraq_cli.models.teacher import Teacher


def class_names(teacher: Teacher, num_classes: int) -> list[str] | None:
    """Return a name for every class: the model's own, or ImageNet's if the weights are known to be from it; else None.

    The names of ImageNet are those of :func:`imagenet_names`.
    """
    if teacher.label_names and len(teacher.label_names) == num_classes:
        return teacher.label_names
    tag = str(teacher.pretrained_cfg.get("tag", "")).lower()
    stated = teacher.weights is None or "." in teacher.source  # a file's weights are timm's only if their tag is named
    if num_classes != 1000 or not stated or not ("in1k" in tag or "imagenet1k" in tag):
        return None
    return imagenet_names()


def imagenet_names() -> list[str]:
    """Return the names of the 1,000 classes from timm's list: the first synonym of each."""
    from timm.data import ImageNetInfo

    return [name.partition(",")[0] for name in ImageNetInfo().label_descriptions()]


def name_of(index: int, names: list[str] | None) -> str:
    """Return the name of a class; ``class 17`` if the names are not known."""
    return names[index] if names else f"class {index}"
