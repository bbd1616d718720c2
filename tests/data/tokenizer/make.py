# SPDX-License-Identifier: Apache-2.0
"""Makes the tokenizer files and golden ids in this folder: pip install tokenizers, then python make.py here."""
import json
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

here = Path(__file__).parent
stories = (here / "../../../examples/data/tiny-llama/calibration.txt").read_text("utf-8").replace("</s><s>", "\n")[:60000]

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
          r"|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

awkward = [
    "",
    " ",
    "a",
    "\n",
    "Hello, world! I'm here; you'LL see, they'Ve it's 'S x'ſ.",
    "  two  spaces   three\t\ttabs \t mixed    ",
    "line\r\nbreaks\r\n\r\nof \n both\n\n\n kinds \r alone\n ",
    "0 12 345 6789 1234567890 3.14159 ½ ² Ⅷ ٣٤٥ 1st",
    "def f(x):\n\treturn x**2  # a comment\n\n\n    y = [1,2]\n/usr/bin//\n",
    "naïve café Zürich Ångström straße ﬁne ŒUVRE ÞORN",
    "e\u0301 a\u0308\u0323 n\u0303o q\u0307\u0323 x\u20d7",
    "日本語の文章です。漢字とかなカナ、中文混排。한국어 문장도",
    "שלום עולם مرحبا بالعالم مُحَمَّد",
    "हिन्दी में नमस्ते ไทยไม่มีช่องว่าง",
    "👩‍👩‍👧‍👦 family 👍🏽 thumbs 🇩🇪 flag ❤️ heart 🏴‍☠️",
    "a\0b\0\0c",
    "\u00a0no\u00a0break\u2003em\u3000ideographic\u200bzero\u180emongol\u0085next\u2028line\ufeffbom",
    "x" * 300,
    "supercalifragilistic" * 20 + "!" * 70 + "-" * 33,
    "<s>special</s><s> inside <s></s> text </ s> <|x|>",
    "CamelCaseWords HTTPServer iPhone's DON'T McDonald'S",
    "tail spaces then end   ",
    "\u0001\u001f\u007f\ufffd\U0010ffff control and edges",
    "▁already▁meta ▁ mixed▁▁",
    "once upon a time, there was a little girl named lily. she liked to play with her dog in the park. one day",
]


def write(name, file):
    file["truncation"] = file["padding"] = None
    (here / name).write_text(json.dumps(file, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")
    return Tokenizer.from_file(str(here / name))


def golden(name, tokenizer, texts):
    with (here / name).open("w") as out:
        for text in texts:
            ids = tokenizer.encode(text).ids
            decoded = tokenizer.decode(ids)
            out.write(f"{text.encode().hex()}\t{' '.join(map(str, ids))}\t{decoded.encode().hex()}\n")


def train(tokenizer, size, byte_level=True, **more):
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"],
                                  show_progress=False, **more)
    tokenizer.train_from_iterator([stories] + awkward * 20, trainer)
    return json.loads(tokenizer.to_str())


def bos(tokenizer):
    return processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])


def byte_level_gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t.decoder = decoders.ByteLevel()
    file = train(t, 800)
    golden("gpt2.golden", write("gpt2.json", file), awkward)


def byte_level_llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    train(t, 800)
    t.post_processor = processors.Sequence([processors.ByteLevel(), bos(t)])
    file = json.loads(t.to_str())
    # A whole word that no merges reach: ignore_merges takes it all the same.
    for word in ["Ġtext", "special", "ĠiPhone"]:
        if word not in file["model"]["vocab"]:
            file["model"]["vocab"][word] = len(file["model"]["vocab"])
    golden("llama3.golden", write("llama3.json", file), awkward)


def byte_fallback_llama2():
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Replace(" ", "▁")])
    t.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for the training only
    file = train(t, 500, byte_level=False, limit_alphabet=60)
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{b:02X}>": 3 + b for b in range(256)}
    for piece in sorted(file["model"]["vocab"], key=file["model"]["vocab"].get):
        vocab.setdefault(piece, len(vocab))
    file["model"]["vocab"] = vocab
    file["model"]["merges"] = [" ".join(m) for m in file["model"]["merges"]]  # the older form
    token = file["added_tokens"][0]
    file["added_tokens"] = [dict(token, id=i, content=c) for i, c in enumerate(["<unk>", "<s>", "</s>"])]
    file["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    file["pre_tokenizer"] = None
    file["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    t = write("llama2.json", file)
    t.post_processor = bos(t)
    golden("llama2.golden", write("llama2.json", json.loads(t.to_str()) | {"model": file["model"]}), awkward)


def metaspace():
    """Words with ▁, unk without fusing, and added tokens with every flag."""
    t = Tokenizer(models.BPE(unk_token="</s>"))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    t.decoder = decoders.Metaspace(prepend_scheme="first")
    train(t, 400, byte_level=False, limit_alphabet=60)
    t.add_tokens([AddedToken("[L]", lstrip=True, normalized=False), AddedToken("[R]", rstrip=True, normalized=False),
                  AddedToken("[LR]", lstrip=True, rstrip=True, normalized=True),
                  AddedToken("day", single_word=True, normalized=False), AddedToken("daydream", normalized=False),
                  AddedToken("[LR]x", normalized=True)])
    texts = awkward + ["a  [L]  b [R]  c [LR] d", "[L][R][LR][L]", " [L] ", "day daydream days holiday day-day day",
                       "[LR]x [LR] x[LR]\u00a0", "\u3000[L]\n[R]\t\u2003z", "éday dayé day_ 3day"]
    golden("metaspace.golden", write("metaspace.json", json.loads(t.to_str())), texts)


def variants():
    """One model whose pieces cross every border, under many pre-tokenizers, normalizers and decoders."""
    t = Tokenizer(models.BPE(unk_token="<s>", fuse_unk=True))
    file = train(t, 700, byte_level=False, max_token_length=6, limit_alphabet=150)
    base = write("variants.json", file)
    text = here / "variants.json"
    behaviors = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
    some = [x[:60] for x in awkward if len(x) < 250 and "\0" not in x] + ["--a--b-c--", "-", "a1b22 c333", "x-y - z", "aAbB", "a.b,c!?d", " a b  c "]
    steps = []
    for b in behaviors:
        for invert in (False, True):
            steps.append(pre_tokenizers.Split(Regex(r"\s+|-"), b, invert))
        steps.append(pre_tokenizers.Split("-", b))
        steps.append(pre_tokenizers.Split(Regex(r"\d*"), b))
        steps.append(pre_tokenizers.Punctuation(b))
    steps += [pre_tokenizers.Split(Regex(p), "isolated") for p in (LLAMA3, QWEN2, CL100K, O200K, r"\w+|\S", r"^.|$")]
    steps += [pre_tokenizers.Digits(individual_digits=i) for i in (False, True)]
    steps += [pre_tokenizers.Whitespace(), pre_tokenizers.WhitespaceSplit()]
    steps += [pre_tokenizers.Metaspace(prepend_scheme=s, split=c) for s in ("always", "first", "never")
              for c in (False, True)]
    steps.append(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.Punctuation()]))
    members = [("pre_tokenizer", s, some) for s in steps]
    ascii_only = [x for x in some if x.isascii()]
    inert = [x for x in some if unicodedata.is_normalized("NFC", x) and not any(map(unicodedata.combining, x))]
    members += [("normalizer", normalizers.Lowercase(), ascii_only), ("normalizer", normalizers.NFKC(), ascii_only),
                ("normalizer", normalizers.NFD(), ascii_only), ("normalizer", normalizers.NFC(), inert),
                ("normalizer", normalizers.Strip(), some), ("normalizer", normalizers.Strip(right=False), some),
                ("normalizer", normalizers.Replace(Regex(r"\s+"), "_"), some),
                ("normalizer", normalizers.Sequence([normalizers.Strip(), normalizers.Prepend("-")]), some)]
    with (here / "variants.golden").open("w") as out:
        for x in some:
            out.write(f"text\t{x.encode().hex()}\n")
        for member, step, texts in members:
            fresh = Tokenizer.from_file(str(text))
            setattr(fresh, member, step)
            description = json.dumps(json.loads(fresh.to_str())[member], ensure_ascii=True)
            out.write(f"step\t{member}\t{description}\n")
            for x in texts:
                out.write(f"{some.index(x)}\t{' '.join(map(str, fresh.encode(x).ids))}\n")
    assert base.get_vocab_size() == 700


byte_level_gpt2()
byte_level_llama3()
byte_fallback_llama2()
metaspace()
variants()
