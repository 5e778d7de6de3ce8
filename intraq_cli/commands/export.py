"""``intraq export``."""

from intraq_cli.commands import options
from intraq_cli.commands.printing import duration, file_size, print_hint, print_json, print_table
from intraq_cli.commands.progress import progress


def export(
    folder: options.Folder,
    to: options.Format = "onnx",
    out: options.OnnxFile = None,
    storage: options.StorageOption = "int8",
    images: options.Pictures = None,
    model: options.FloatModel = None,
    batch: options.Batch = 1,
    allow_float: options.AllowFloat = False,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a checkpoint as a file that runs in integer arithmetic, and prove it.

    intraq export resnet18-w8a8
    """
    given = options.passed_on(locals())
    from intraq_cli.api import exporting as api

    with progress(quiet) as report:
        result = api.export(**given, report=report)
    if as_json:
        print_json(result)
    elif quiet:
        print(result.path)
    else:
        count = len(result.layers_integer) + len(result.layers_float)
        same = "equal" if result.first_choices_equal else "not all equal"
        times = f"{result.ms_quantized:.2f} ms, float32 {result.ms_float:.2f} ms"
        ratio = f"{result.ms_float / result.ms_quantized:.2f} times as fast"
        print_table(
            result.path,
            [
                ("layers", f"{len(result.layers_integer)} of {count} run on integers in onnxruntime"),
                *(("float", f"{layer['name']}: {layer['reason']}") for layer in result.layers_float[:10]),
                ("logits", f"first choices {same} on {result.images} images, largest difference "
                           f"{result.logits_difference:.2g} of their spread"),
                ("speed", f"{times} a batch of {result.batch} on {result.threads} threads: {ratio}"),
                ("size", f"{file_size(result.bytes)}, opset {result.opset}, in {duration(result.seconds)}"),
            ],
        )  # fmt: skip
        print_hint(f"measure it: intraq evaluate {result.path} --data FOLDER")
