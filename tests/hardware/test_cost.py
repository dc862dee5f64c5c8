import types

from rvae_jax.hardware import cost


def test_work_that_libraries_do_is_not_counted():
    memory = types.SimpleNamespace(
        argument_size_in_bytes=1,
        temp_size_in_bytes=2,
        generated_code_size_in_bytes=3,
        output_size_in_bytes=4,
        alias_size_in_bytes=4,
    )
    compiled = types.SimpleNamespace(
        memory_analysis=lambda: memory,
        cost_analysis=lambda: {"flops": 5.0, "bytes accessed": 6.0},
        as_text=lambda: "%c = f32[1] custom-call(%x)",
    )
    assert cost.cost_of(compiled, loop_steps=2) == cost.Cost(6, 2, 10.0, 12.0)
    compiled.as_text = lambda: '%c = f32[1] custom-call(%x), custom_call_target="__cudnn$convForward"'
    assert cost.cost_of(compiled) == cost.Cost(6, 2, None, None)


def test_collectives_are_read_from_the_text_of_a_program():
    text = """
%body.3_spmd (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  ROOT %r = f32[4]{0} all-reduce(f32[4]{0} %g), to_apply=%add
}

ENTRY %main (a: f32[16,8]) -> f32[3] {
  %all-reduce.1 = (f32[16,8]{1,0}, bf16[2]{0}, /*index=2*/f32[]) all-reduce(%a, %b, %c), channel_id=1
  %all-gather-start = (f32[4]{0}, f32[16]{0}) all-gather-start(f32[4]{0} %p), dimensions={0}
  ROOT %x = f32[3]{0} fusion(f32[3]{0} %all-reduce.1)
  %done = f32[16]{0} all-gather-done(%all-gather-start)
  %w = (s32[], f32[4]{0}) while((s32[], f32[4]{0}) %t), condition=%cond.2, body=%body.3_spmd
}
"""
    found = cost.collectives(text)
    assert [(each.kind, each.bytes, each.in_loop) for each in found] == [
        ("all-reduce", 16, True),
        ("all-reduce", 512 + 4 + 4, False),
        ("all-gather", 64, False),
    ]
