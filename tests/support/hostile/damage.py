"""Tables that are wrong, or made to exhaust a reader: the memo, lengths, indices, nesting; each by its name."""

from support.hostile.parts import COMMAND, TENSOR, item, named, stack_global, table, text
from vaelens.tensors.pickles.state_tables import TRAINING


def damaged() -> dict[str, bytes]:
    """Tables that are wrong or made to exhaust a reader: refused with exit code 3."""
    shape = b"M\xff\xff\x85"
    odd = TENSOR.replace(text("0"), text("\x1b[31m" + "0" * 2000))
    return {
        "empty": b"\x80\x04.",
        "no stop": table()[:-1],
        "protocol 200": b"\x80\xc8N.",
        "unknown opcode": b"\x80\x04\xffN.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "read-only buffer": b"\x80\x05N\x98.",
        "persistent id in text": b"\x80\x02Ppid\n.",
        "persistent id of a string": b"\x80\x02" + text("pid") + b"Q.",
        "persistent id of a number": b"\x80\x02K\x01Q.",
        "persistent id of a list": b"\x80\x02]Q.",
        "storage of another kind": b"\x80\x02(" + text("tensor") + b"NtQ.",
        "storage of a path": table(
            item(b"(" + text("storage") + named("torch.FloatStorage") + text("../data.pkl") + b"NK\x02tQ")
        ),
        "storage of minus one": table(
            item(b"(" + text("storage") + named("torch.FloatStorage") + text("0") + b"NJ\xff\xff\xff\xfftQ")
        ),
        "storage of 2^62": table(
            item(
                b"("
                + text("storage")
                + named("torch.FloatStorage")
                + text("0")
                + b"N\x8a\x08"
                + b"\xff" * 7
                + b"\x3ftQ"
            )
        ),
        "storage with two sizes": table(item(TENSOR), b"", item(TENSOR.replace(b"K\x02tQ", b"K\x01tQ"))),
        "tensor beyond its storage": table(item(TENSOR.replace(b"K\x02\x85", shape))),
        "tensor with a huge stride": table(
            item(TENSOR.replace(b"K\x01\x85\x89", b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x85\x89"))
        ),
        "tensor with a negative stride": table(item(TENSOR.replace(b"K\x01\x85\x89", b"J\xff\xff\xff\xff\x85\x89"))),
        "tensor with a negative offset": table(item(TENSOR.replace(b"QK\x00", b"QJ\xff\xff\xff\xff"))),
        "tensor of a string": table(
            item(named("torch._utils._rebuild_tensor_v2") + b"(" + text("x") + b"K\x00))\x89)tR")
        ),
        "tensor with a million axes": table(item(TENSOR.replace(b"K\x02\x85", b"(" + b"K\x01" * 100_000 + b"t"))),
        "tensor without arguments": table(item(named("torch._utils._rebuild_tensor_v2") + b")R")),
        "recursive rebuild": table(item(named("torch._tensor._rebuild_from_type_v2") + b"q\x01(h\x01N)tR")),
        "call of a number": b"\x80\x02K\x01)R.",
        "call of a string": b"\x80\x02" + text("os.system") + text(COMMAND) + b"\x85R.",
        "call with a list": b"\x80\x02" + named("collections.OrderedDict") + b"]R.",
        "keywords of a list": b"\x80\x04" + named("collections.OrderedDict") + b")]\x92.",
        "state of a number": b"\x80\x02K\x01}b.",
        "name of a number": b"\x80\x04K\x01K\x02\x93.",
        "name with a newline": table(item(stack_global("os\n", "system"))),
        "name of a megabyte": table(item(stack_global("a" * 1_000_000, "b"))),
        "name that is empty": table(item(stack_global("", ""))),
        "items of an odd number": b"\x80\x02}(Nu.",
        "item set in a number": b"\x80\x02K\x01NNs.",
        "append to a tuple": b"\x80\x02)Na.",
        "memo that is empty": b"\x80\x02h\x07.",
        "memo of minus one": b"\x80\x02Np-1\n.",
        "memo of a googol": b"\x80\x02Np" + b"9" * 900 + b"\n.",
        "memo of 4 billion": b"\x80\x02Nr\xff\xff\xff\xff0j\xfe\xff\xff\xff.",
        "memoize nothing": b"\x80\x04\x94.",
        "get of letters": b"\x80\x02gabc\n.",
        "string of 4 GB": b"\x80\x02X\xff\xff\xff\xffabc.",
        "string of 2^63": b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.",
        "bytes of 2^63": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.",
        "bytearray of 2^63": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7fabc.",
        "binstring of less than nothing": b"\x80\x02T\xff\xff\xff\xffabc.",
        "frame of 2^63": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
        "number of a gigabyte": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
        "number of a megabyte": b"\x80\x02\x8b\x40\x42\x0f\x00" + b"\xff" * 1_000_000 + b".",
        "number of 60,000 digits": b"\x80\x02L" + b"9" * 60_000 + b"L\n.",
        "number of letters": b"\x80\x02Iabc\n.",
        "float of letters": b"\x80\x02Fabc\n.",
        "string without quotes": b"\x80\x02Sabc\n.",
        "string with half an escape": b"\x80\x02S'\\x'\n.",
        "string that isn't UTF-8": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
        "unicode with half an escape": b"\x80\x02V\\u12\n.",
        "line without end": b"\x80\x02S'" + b"a" * 200_000,
        "pop of nothing": b"\x80\x020.",
        "pop without a mark": b"\x80\x021.",
        "tuple without a mark": b"\x80\x02t.",
        "tuple of nothing": b"\x80\x02\x87.",
        "duplicate of nothing": b"\x80\x022.",
        "four million steps": b"\x80\x02" + b"N0" * 2_000_000 + b"N.",
        "a million tables": b"\x80\x02(" + b"}" * 1_000_000 + b"l.",
        "a million marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
        "a million sets": b"\x80\x04(" + b"\x8f" * 1_000_000 + b"l.",
        "an encoding of tuples very deep": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00a)"
        + b"\x85" * 300_000
        + b"\x86R.",
        "an attribute with an escape code": table(
            item(named("builtins.getattr") + b"(" + named("mine.Thing") + text("\x1b[31m") + b"tR")
        ),
        "a million memos": b"\x80\x04N" + b"\x94" * 1_000_000 + b".",
        "nested a million deep": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
        "tuples a million deep": b"\x80\x02)" + b"\x85" * 1_000_000 + b".",
        "list in itself": b"\x80\x02]q\x01h\x01a.",
        "copies of a copy": b"\x80\x02]("
        + b"K\x01" * 10_000
        + b"eq\x010"
        + (named("builtins.list") + b"q\x020")
        + b"("
        + b"h\x02h\x01\x85R" * 10_000
        + b"l.",
        "tables of a table": b"\x80\x02}("
        + b"".join(text(str(i)) + b"K\x01" for i in range(2000))
        + b"uq\x010"
        + named("collections.OrderedDict")
        + b"q\x020("
        + b"h\x02h\x01\x85R" * 10_000
        + b"l.",
        "one table in a thousand": b"\x80\x02}("
        + b"".join(text(f"t{i}") + TENSOR for i in range(300))
        + b"uq\x010}("
        + b"".join(text(f"a{i}") + b"h\x01" for i in range(3000))
        + b"u.",
        "two tensors of one name": table(
            text("model") + b"}" + text("w") + TENSOR.replace(b"K\x02\x85", b"K\x01\x85") + b"s"
        ),
        "a name of half a pair": table(b"X\x03\x00\x00\x00\xed\xa0\x80" + TENSOR),
        "a prefix of half a pair": table(b"X\x03\x00\x00\x00\xed\xa0\x80}" + text("optimizer") + b"}s"),
        "training's tables under a long prefix": b"\x80\x02}("
        + "".join(f"V{key}\n}}" for key in sorted(TRAINING)).encode()
        + b"uq\x010}"
        + text("p" * 1_000_000)
        + b"}("
        + b"".join(text(f"{i}") + b"h\x01" for i in range(4))
        + b"us"
        + (text("w") + TENSOR + b"s."),
        "a negated view": table(item(TENSOR[:-2] + b"}" + text("neg") + b"\x88stR")),
        "a negated view, by a mapping of another program": table(
            item(TENSOR[:-2] + named("mine.Metadata") + b")\x81" + text("neg") + b"\x88stR")
        ),
        "memo of a long number": b"\x80\x02g" + b"9" * 900 + b"\n.",
        "two sizes of a storage with a long name": table(item(odd), b"", item(odd.replace(b"K\x02tQ", b"K\x01tQ"))),
        "a tensor without a name": table(b"K\x07" + TENSOR),
        "a numpy scalar of a wrong length": table(
            item(
                named("numpy.core.multiarray.scalar")
                + b"("
                + named("numpy.dtype")
                + b"("
                + text("f8")
                + b"\x89\x88tR"
                + b"C\x02ab"
                + b"tR"
            )
        ),
        "a list of tensors": b"\x80\x02](" + TENSOR + b"e.",
        "a tensor alone": b"\x80\x02" + TENSOR + b".",
        "a number": b"\x80\x02K\x01.",
        "a whole model": b"\x80\x02" + named("mine.Model") + b")\x81}b.",
    }
