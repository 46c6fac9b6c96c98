"""No arguments of torch.ops.convinit_ext end the process, or reach memory that is not the tensors'."""

from processes import SUPPORT, run_script


def test_arguments_of_all_kinds():
    counts = run_script(SUPPORT / "fuzzed_ops.py").splitlines()[-1].split()
    accepted = dict(count.removeprefix("convinit_ext::").split("=") for count in counts)
    for op in ("fill_", "fill_one_", "fill_part_", "fill_in_graph_", "digest", "compare", "make_orthogonal_"):
        assert int(accepted[op]) > 50, accepted
