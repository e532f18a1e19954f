"""The texts that every reader must give our vectors for: a hundred of all kinds, and the job's own."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path

from bgetune.config_export import ExportConfig
from bgetune.data import json_lines, read_retrieval_set, string_at
from bgetune.errors import UserError

_PARAGRAPH = (
    "A library keeps what a town remembers: maps on which streams still run above ground, letters that nobody came "
    "to fetch, a ledger of the winter in which the bridge froze. Whoever looks for one of these asks in words of "
    "today, and the shelf answers in words of its own time. "
)

# What parts tokenizers, poolings and truncations: nearly nothing, white space, controls, repetition, great length.
_EDGES = (
    "",
    "a",
    "...",
    "What is the capital of France?",
    " leading and trailing spaces ",
    _PARAGRAPH * 5,
    _PARAGRAPH * 30,
    "🙂🚀 emoji only 🙃",
    "東京は日本の首都です。",
    "القاهرة هي عاصمة مصر",
    "the the the the the the the the the the the the the the the the the the the the the the the the",
    " ",
    "\n",
    "\t\t\n  \r\n",
    "?!",
    "—–‐…«»„“”‘’",
    "0",
    "()[]{}<>@#$%^&*_+=~`|\\/",
    "\x00nul, \x07bell and \x1b[31mescape\x1b[0m among words\x7f",
    "zero\u200bwidth\u200bspaces, a soft\u00adhyphen, a\u00a0hard space, and a \ufeffbyte order mark",
    "Pneumonoultramicroscopicsilicovolcanoconiosis" * 12,
    "x" * 3000,
    "heart " * 300,
    "one\ntext\n\nin\nmany\nlines\n",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39",
    "<s> [CLS] [SEP] </s> <pad> [PAD] <mask> [MASK] <unk> written out as words",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 thumb, 🇫🇷🇯🇵 countries, ❤️ heart",
    "e\u0301 and é, n\u0303 and ñ, A\u030a and Å and Å: composed and decomposed",
    "Z̷̢͘a̶͝l̵̛g̴͠o̸͛ t̸e̵x̷t̴ with m̶a̸n̷y̵ combining marks",
    "ﬁne ﬂow ﬀ ½ ² ™ ㎏ Ⅷ ｆｕｌｌ　ｗｉｄｔｈ",
    "𝒻𝒶𝓃𝒸𝓎 𝕝𝕖𝕥𝕥𝕖𝕣𝕤 outside the basic plane, 𐍈 and 𒀀 too",
    "CamelCaseWordsAndSHOUTING and snake_case_words and kebab-case-words",
)

_CODE_AND_NUMBERS = (
    "def add(a, b):\n    return a + b",
    "SELECT name, COUNT(*) FROM visits WHERE day >= '2024-01-01' GROUP BY name HAVING COUNT(*) > 3;",
    'for (let i = 0; i < rows.length; i++) {\n\tconsole.log(`row ${i}: ${rows[i]?.id ?? "none"}`);\n}',
    '#include <stdio.h>\nint main(void) { printf("%d\\n", 1 << 10); return 0; }',
    '{"id": 17, "tags": ["a", "b"], "price": null, "nested": {"deep": [1.5e-3, -2]}}',
    "Traceback (most recent call last):\n  File \"job.py\", line 3, in <module>\nKeyError: 'width'",
    "$ git log --oneline -n 3 | awk '{print $1}' > heads.txt",
    "^(?:[a-z0-9]+(?:\\.[a-z0-9]+)*)@(?:[a-z0-9-]+\\.)+[a-z]{2,}$",
    "https://example.org/a/very/long/path?with=query&and=more#fragment",
    "See ftp://files.example.net/pub/readme.txt or write to someone@example.com.",
    "3.14159265358979323846264338327950288419716939937510",
    "On 2024-02-29 at 23:59:60 UTC it was -12.5 °C and 1,013.25 hPa.",
    "+49 (0)30 123456-78",
    "E = mc², ∇·B = 0, ∑ₙ 1/n² = π²/6, x ∈ ℝ ∖ {0}",
    "H₂SO₄ + 2 NaOH → Na₂SO₄ + 2 H₂O",
    "ACGTACGTTAGCCGATAGCTAGCTAGGCTTACGATCGATCGGCTA",
    "| city | people |\n|---|---:|\n| Oslo | 709,037 |\n| Bergen | 291,940 |",
    '<p class="note">Markup &amp; entities: &lt;b&gt; is <b>bold</b>.</p>',
    "# Heading\n\n- first point\n- second point, with `code` and **stress**",
    "192.168.0.1 2001:db8::ff00:42:8329 00:1A:2B:3C:4D:5E",
)

# Each in its own script or with its own marks.
_LANGUAGES = (
    "Die Straße nach Gießen führt über Köln, und der Zug fährt trotzdem pünktlich ab.",
    "Où est passé le garçon qui vendait des œufs près de l'église ?",
    "¿Cuántos años tiene la niña que juega en el jardín?",
    "O coração não se engana quando a saudade é grande demais.",
    "Perché l'acqua bolle prima in montagna che al mare?",
    "De grootste stad van Nederland ligt gedeeltelijk onder zeeniveau.",
    "Zażółć gęślą jaźń, powiedział nauczyciel do uczniów.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Árvíztűrő tükörfúrógép: minden ékezetes betű egy mondatban.",
    "Mâine dimineață, țăranii își vând brânza în piața din Brașov.",
    "İstanbul'da yağmurlu bir gün, vapur iskelesinde çay içiyorduk.",
    "Hver dag går den gamle mann langs fjorden og mater måkene.",
    "Sjö sjösjuka sjömän sköttes av sju sköna sjuksköterskor på skeppet Shanghai.",
    "Hyvää huomenta, lähdetäänkö järvelle uimaan ennen aamiaista?",
    "Þórður fór út á sjó og veiddi ýsu fyrir alla fjölskylduna.",
    "Õhtul süüakse pärast sauna musta leiba ja suitsukala.",
    "Tiếng Việt có sáu thanh điệu và dùng chữ Latinh với nhiều dấu.",
    "Bahasa Indonesia dituturkan di ribuan pulau dengan banyak logat.",
    "Kiswahili kinazungumzwa na watu wengi katika Afrika ya Mashariki.",
    "Mo fẹ́ ra ẹja àti ẹ̀fọ́ ní ọjà lónìí.",
    "Москва — столица России, а Волга впадает в Каспийское море.",
    "Їжак з'їв яблуко під ґанком старої хати.",
    "Столицата на България е София, в подножието на Витоша.",
    "Қазақстанның астанасы — Астана қаласы, ол Есіл өзенінің жағасында.",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας και μια από τις παλαιότερες πόλεις.",
    "ירושלים היא עיר עתיקה שבה נפגשות דרכים רבות.",
    "كيف تعمل ذاكرة التخزين المؤقت في المعالجات الحديثة؟",
    "تهران پایتخت ایران است و در دامنهٔ البرز جای دارد.",
    "پاکستان کا دارالحکومت اسلام آباد ہے۔",
    "भारत की राजधानी नई दिल्ली है, और गंगा उत्तर से पूर्व की ओर बहती है।",
    "বাংলাদেশের রাজধানী ঢাকা বুড়িগঙ্গা নদীর তীরে অবস্থিত।",
    "தமிழ் உலகின் பழமையான மொழிகளில் ஒன்று.",
    "తెలుగు భాష తీయని తేనె వంటిది అంటారు.",
    "ಕನ್ನಡ ನಾಡು ಮತ್ತು ನುಡಿ ಬಹಳ ಹಳೆಯದು.",
    "മലയാളം കേരളത്തിലെ പ്രധാന ഭാഷയാണ്.",
    "ਪੰਜਾਬ ਪੰਜ ਦਰਿਆਵਾਂ ਦੀ ਧਰਤੀ ਹੈ।",
    "කොළඹ ශ්‍රී ලංකාවේ විශාලතම නගරයයි.",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทยโดยไม่มีช่องว่างระหว่างคำ",
    "ភ្នំពេញ គឺជារដ្ឋធានីនៃប្រទេសកម្ពុជា។",
    "မြန်မာနိုင်ငံသည် အရှေ့တောင်အာရှတွင် တည်ရှိသည်။",
    "თბილისი საქართველოს დედაქალაქია და მტკვრის ნაპირზე დგას.",
    "Երևանը Հայաստանի մայրաքաղաքն է։",
    "አዲስ አበባ የኢትዮጵያ ዋና ከተማ ናት።",
    "北京是中国的首都，故宫在城市的中心。",
    "臺灣的首都在哪裡？請用繁體中文回答。",
    "서울은 대한민국의 수도이며 한강이 도시를 가로질러 흐른다.",
    "カタカナとひらがなと漢字、そしてｶﾅの半角も混ぜて書く。",
    "He said שלום and then 再见, пока and وداعا in one breath.",
)

SAMPLE: tuple[str, ...] = (*_EDGES, *_CODE_AND_NUMBERS, *_LANGUAGES)
"""A hundred texts, those first that tell the most."""


def texts_to_verify(count: int, own: Sequence[str] = ()) -> list[str]:
    """`count` texts, half of them from `own`; fewer where `own` and the sample have no more. None is there twice.

    >>> texts_to_verify(4, ["heart pain", "lung cure", "bone"])
    ['', 'a', 'heart pain', 'lung cure']
    >>> len(texts_to_verify(200))
    100
    """
    drawn = list(dict.fromkeys(own))[: max(count // 2, count - len(SAMPLE))]
    return list(dict.fromkeys((*SAMPLE[: count - len(drawn)], *drawn)))


def own_texts(folder: Path, config: ExportConfig) -> list[str]:
    """Passages and test queries of a set in BEIR layout, drawn by their hash: the same whatever their order.

    A passage and a query in turn, as many of each as `export.verify_texts`, so that any beginning is of both kinds.
    """
    data = read_retrieval_set(folder)
    passages = _drawn(data.corpus.full_texts(), config.verify_texts)
    queries = _drawn(data.queries_of("test").texts, config.verify_texts)
    in_turn = [text for pair in zip(passages, queries, strict=False) for text in pair]
    return [*in_turn, *passages[len(queries) :], *queries[len(passages) :]]


def _drawn(texts: Iterable[str], count: int) -> list[str]:
    return heapq.nsmallest(count, set(texts), key=lambda text: hashlib.sha256(text.encode()).hexdigest())


def texts_in(path: Path) -> list[str]:
    """Texts of a user's file: a line each, or `text` of each row where it ends in .jsonl.

    Raises:
        UserError: it is not there, is no UTF-8, or holds no text.
    """
    if not path.is_file():
        raise UserError(f"--texts: {path} is no file; name one with a text a line, or a .jsonl with `text`")
    if path.suffix == ".jsonl":
        found = [string_at(row, "text", where) for where, row in json_lines(path)]
    else:
        try:
            found = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UserError(f"--texts: {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if not found:
        raise UserError(f"--texts: {path} holds no text; write one a line")
    return found
