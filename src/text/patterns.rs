//! The splitting regexes of the known families, each as alternatives tried in order at a position.
//!
//! Principal type: [`Pattern`]. The regexes stand beside the scanners; `reference_tests` hold them equal to a regex
//! engine. Every scanner is one forward pass: no text makes them quadratic. Must not know what becomes of the matches.

use super::chars::{
    Category, CharClass, category_of, char_at, char_before, class_of, is_mark, is_punctuation,
};

/// Where a match that begins at a byte offset ends; None when there is none. Never empty.
pub(crate) type Alternative = fn(&[u8], usize) -> Option<usize>;

/// A regex.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pattern {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|`
    /// `\s+(?!\S)|\s+`, with numbers of up to `digits` digits: 3 for Llama 3, 1 for Qwen 2.
    Llama3 {
        /// Most digits in a row.
        digits: usize,
    },
    /// Runs of characters.
    Run {
        /// What they are made of.
        of: fn(char) -> bool,
        /// Longest run.
        longest: usize,
    },
    /// The first alternative that matches.
    AnyOf(&'static [Alternative]),
}

impl Pattern {
    /// End of the match at `at`.
    pub(crate) fn end_at(self, text: &[u8], at: usize) -> Option<usize> {
        match self {
            Pattern::Gpt2 => Some(gpt2_end(text, at)),
            Pattern::Llama3 { digits } => Some(llama3_end(text, at, digits)),
            Pattern::Run { of, longest } => {
                let end = run_end(text, at, of, longest);
                (end > at).then_some(end)
            }
            Pattern::AnyOf(alternatives) => alternatives.iter().find_map(|end| end(text, at)),
        }
    }
}

/// The pattern of a regex as tokenizer.json files spell it.
pub(crate) fn known_regex(regex: &str) -> Option<Pattern> {
    KNOWN.iter().find(|(known, _)| *known == regex).map(|(_, pattern)| *pattern)
}

/// Regexes and their scanners.
#[rustfmt::skip]
pub(crate) const KNOWN: &[(&str, Pattern)] = &[
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Pattern::Gpt2),
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Pattern::Gpt2),
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", LLAMA3),
    // The same: what one part takes, the next cannot, and white space runs up to the last line break either way.
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+", LLAMA3),
    (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+", LLAMA3),
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", QWEN2),
    (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+", QWEN2),
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", QWEN35),
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+", SEED_CODER),
    (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+", TEKKEN),
    (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+", GPT4O),
    (r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", KIMI_K2),
    (r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##, DEEPSEEK3),
    ("[一-龥\u{3040}-ゟ゠-ヿ]+", HAN_OR_KANA),
    ("[一-龥ࠀ-一가-\u{d7ff}]+", DEEPSEEK_EAST_ASIAN),
    (r"[\r\n]", LINE_BREAK),
    (r"\s?\p{L}+", SPACED_LETTERS),
    (r"\s?\p{P}+", SPACED_PUNCTUATION),
    ("\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+", DEEPSEEK_MARKS),
    (DEEPSEEK_LETTER_REGEX, DEEPSEEK_LETTERS),
    (r"\s+$", LAST_SPACES),
    (" ?[^(\\s|[.,!?…。，、।۔،])]+", BLOOM),
    (" ?[^(\\s|.,!?…。，、।۔،)]+", BLOOM),
    (r"\p{N}", DIGIT),
    (r"\p{N}{1}", DIGIT),
    (r"\p{N}{1,3}", UP_TO_THREE),
    (r"\p{N}+", NUMBERS),
    ("[0-9][0-9][0-9]", TRIPLES),
    (r"\n", Pattern::Run { of: |c| c == '\n', longest: 1 }),
    (r"[^\n]+|[\n]+", LINES),
    (" {2,}", SPACES_IN_A_ROW),
    (r"\s+", Pattern::Run { of: is_space, longest: usize::MAX }),
    (r"\s", Pattern::Run { of: is_space, longest: 1 }),
    (r"\w+|[^\w\s]+", WORDS),
];

pub(crate) const LLAMA3: Pattern = Pattern::Llama3 { digits: 3 };
pub(crate) const QWEN2: Pattern = Pattern::Llama3 { digits: 1 };
pub(crate) const DIGIT: Pattern = Pattern::Run { of: is_number, longest: 1 };
pub(crate) const NUMBERS: Pattern = Pattern::Run { of: is_number, longest: usize::MAX };
pub(crate) const TRIPLES: Pattern = Pattern::AnyOf(&[three_ascii_digits]);
pub(crate) const LINE_BREAK: Pattern = Pattern::Run { of: is_newline, longest: 1 };
pub(crate) const LINES: Pattern =
    Pattern::AnyOf(&[|text, at| some(text, at, |c| c != '\n'), |text, at| some(text, at, |c| c == '\n')]);
/// ` {2,}`
pub(crate) const SPACES_IN_A_ROW: Pattern =
    Pattern::AnyOf(&[|text, at| some(text, at, |c| c == ' ').filter(|end| *end > at + 1)]);
const WORDS: Pattern = Pattern::AnyOf(&[
    |text, at| some(text, at, is_word),
    |text, at| some(text, at, |c| !is_word(c) && !is_space(c)),
]);
/// `[\p{P}$+<=>^~|]+`, the first step for files without a pre-tokenizer's name.
pub(crate) const MARKS: Pattern = Pattern::Run { of: is_default_mark, longest: usize::MAX };
/// The same with the backtick, as Falcon has it.
pub(crate) const FALCON_MARKS: Pattern =
    Pattern::Run { of: |c| is_default_mark(c) || c == '`', longest: usize::MAX };
pub(crate) const BLOOM: Pattern =
    Pattern::AnyOf(&[|text, at| after_one(text, at, |c| c == ' ', is_bloom_word)]);

pub(crate) const QWEN35: Pattern = Pattern::AnyOf(&[
    contraction,
    |text, at| after_one(text, at, is_lead, |c| is_letter(c) || is_mark(c)),
    |text, at| one_to(text, at, 1),
    |text, at| marks(text, at, |c| is_symbol(c) && !is_mark(c), is_newline),
    newline_end,
    spaces,
]);

pub(crate) const SEED_CODER: Pattern = Pattern::AnyOf(&[
    contraction,
    |text, at| after_one(text, at, is_lead, is_letter),
    |text, at| one_to(text, at, 1),
    |text, at| marks(text, at, is_symbol, |_| false),
    newline_end,
    spaces,
]);

pub(crate) const TEKKEN: Pattern = Pattern::AnyOf(&[
    |text, at| cased_word(text, at, |_| true),
    |text, at| one_to(text, at, 1),
    |text, at| marks(text, at, is_symbol, |c| is_newline(c) || c == '/'),
    newline_end,
    spaces,
]);

pub(crate) const GPT4O: Pattern = Pattern::AnyOf(&[
    |text, at| with_contraction(text, cased_word(text, at, |_| true)?),
    |text, at| one_to(text, at, 3),
    |text, at| marks(text, at, is_symbol, |c| is_newline(c) || c == '/'),
    newline_end,
    spaces,
]);

pub(crate) const KIMI_K2: Pattern = Pattern::AnyOf(&[
    |text, at| some(text, at, is_han),
    |text, at| with_contraction(text, cased_word(text, at, |c| !is_han(c))?),
    |text, at| one_to(text, at, 3),
    |text, at| marks(text, at, is_symbol, is_newline),
    newline_end,
    spaces,
]);

pub(crate) const DEEPSEEK3: Pattern = Pattern::AnyOf(&[
    |text, at| {
        let (c, len) = char_at(text, at)?;
        c.is_ascii_punctuation().then(|| some(text, at + len, |c| c.is_ascii_alphabetic()))?
    },
    |text, at| {
        let lead = |c| !is_newline(c) && !is_letter(c) && !is_mark_or_symbol(c);
        after_one(text, at, lead, |c| is_letter(c) || is_mark(c))
    },
    |text, at| marks(text, at, is_mark_or_symbol, is_newline),
    newline_end,
    spaces,
]);

pub(crate) const UP_TO_THREE: Pattern = Pattern::Run { of: is_number, longest: 3 };
pub(crate) const HAN_OR_KANA: Pattern = Pattern::Run { of: is_han_or_kana, longest: usize::MAX };
pub(crate) const DEEPSEEK_EAST_ASIAN: Pattern =
    Pattern::Run { of: is_deepseek_east_asian, longest: usize::MAX };
pub(crate) const SPACED_LETTERS: Pattern =
    Pattern::AnyOf(&[|text, at| after_one(text, at, is_space, is_letter)]);
pub(crate) const SPACED_PUNCTUATION: Pattern =
    Pattern::AnyOf(&[|text, at| after_one(text, at, is_space, is_punctuation)]);
pub(crate) const DEEPSEEK_MARKS: Pattern =
    Pattern::AnyOf(&[|text, at| after_one(text, at, is_space, is_deepseek_mark)]);
pub(crate) const DEEPSEEK_LETTERS: Pattern =
    Pattern::AnyOf(&[|text, at| after_one(text, at, is_space, is_deepseek_letter)]);
pub(crate) const LAST_SPACES: Pattern = Pattern::AnyOf(&[last_spaces]);

/// The letters of DeepSeek LLM's regex, which lists them.
const DEEPSEEK_LETTER_REGEX: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿ\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}ℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

fn is_letter(c: char) -> bool {
    class_of(c) == CharClass::Letter
}

pub(crate) fn is_number(c: char) -> bool {
    class_of(c) == CharClass::Number
}

pub(crate) fn is_space(c: char) -> bool {
    class_of(c) == CharClass::Space
}

/// `[^\s\p{L}\p{N}]`
fn is_symbol(c: char) -> bool {
    class_of(c) == CharClass::Other
}

/// `[\p{P}\p{S}]`
fn is_mark_or_symbol(c: char) -> bool {
    matches!(category_of(c), Category::Punctuation | Category::Symbol)
}

fn is_newline(c: char) -> bool {
    c == '\r' || c == '\n'
}

/// `[^\r\n\p{L}\p{N}]`
fn is_lead(c: char) -> bool {
    !is_newline(c) && matches!(class_of(c), CharClass::Space | CharClass::Other)
}

/// `\w`
pub(crate) fn is_word(c: char) -> bool {
    // Connecting punctuation, joiners, and symbols that count as letters.
    let counts = matches!(c as u32, 0x5f | 0x200c..=0x200d | 0x203f..=0x2040 | 0x2054 | 0xfe33..=0xfe34
        | 0xfe4d..=0xfe4f | 0xff3f | 0x24b6..=0x24e9 | 0x1_f130..=0x1_f149 | 0x1_f150..=0x1_f169
        | 0x1_f170..=0x1_f189);
    counts || is_letter(c) || is_mark(c) || category_of(c) == Category::Number
}

/// Punctuation to BERT: ASCII symbols and `\p{P}`.
pub(crate) fn is_bert_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || is_punctuation(c)
}

fn is_default_mark(c: char) -> bool {
    is_punctuation(c) || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
}

fn is_bloom_word(c: char) -> bool {
    !is_space(c)
        && !matches!(c, '(' | '|' | '.' | ',' | '!' | '?' | '…' | '。' | '，' | '、' | '।' | '۔' | '،' | ')')
}

/// `\p{Han}`, the script.
fn is_han(c: char) -> bool {
    matches!(c as u32, 0x2e80..=0x2e99 | 0x2e9b..=0x2ef3 | 0x2f00..=0x2fd5 | 0x3005 | 0x3007 | 0x3021..=0x3029
        | 0x3038..=0x303b | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfa6d | 0xfa70..=0xfad9
        | 0x16fe2..=0x16fe3 | 0x16ff0..=0x16ff1 | 0x20000..=0x2a6df | 0x2a700..=0x2b739 | 0x2b740..=0x2b81d
        | 0x2b820..=0x2cea1 | 0x2ceb0..=0x2ebe0 | 0x2ebf0..=0x2ee5d | 0x2f800..=0x2fa1d | 0x30000..=0x3134a
        | 0x31350..=0x323af)
}

fn is_han_or_kana(c: char) -> bool {
    matches!(c, '一'..='龥' | '\u{3040}'..='ヿ')
}

fn is_deepseek_east_asian(c: char) -> bool {
    // The regex says [一-龥ࠀ-一가-퟿]: everything from U+0800 up to 龥 and the Hangul syllables.
    matches!(c, '\u{800}'..='龥' | '가'..='\u{d7ff}')
}

fn is_deepseek_mark(c: char) -> bool {
    matches!(c, '!'..='/' | ':'..='~' | '！'..='／' | '：'..='～' | '‘'..='‟' | '\u{3000}'..='。')
}

fn is_deepseek_letter(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    let class = DEEPSEEK_LETTER_REGEX.trim_start_matches("\\s?[").trim_end_matches("]+");
    let mut chars = class.chars().peekable();
    while let Some(first) = chars.next() {
        let last = match chars.next_if_eq(&'-') {
            Some(_) => chars.next().unwrap_or(first),
            None => first,
        };
        if (first..=last).contains(&c) {
            return true;
        }
    }
    false
}

/// End of the run of at most `longest` characters from `at` that are `wanted`.
fn run_end(text: &[u8], mut at: usize, wanted: impl Fn(char) -> bool, longest: usize) -> usize {
    let mut n = 0;
    while n < longest {
        match char_at(text, at) {
            Some((c, len)) if wanted(c) => at += len,
            _ => break,
        }
        n += 1;
    }
    at
}

fn class_run_end(text: &[u8], at: usize, class: CharClass) -> usize {
    run_end(text, at, |c| class_of(c) == class, usize::MAX)
}

/// `[wanted]+`
fn some(text: &[u8], at: usize, wanted: impl Fn(char) -> bool) -> Option<usize> {
    let end = run_end(text, at, wanted, usize::MAX);
    (end > at).then_some(end)
}

/// `\p{N}{1,most}`
fn one_to(text: &[u8], at: usize, most: usize) -> Option<usize> {
    let end = run_end(text, at, is_number, most);
    (end > at).then_some(end)
}

/// `[lead]?[wanted]+`
fn after_one(
    text: &[u8],
    at: usize,
    lead: impl Fn(char) -> bool,
    wanted: impl Fn(char) -> bool,
) -> Option<usize> {
    let (c, len) = char_at(text, at)?;
    let led = if lead(c) { some(text, at + len, &wanted) } else { None };
    led.or_else(|| some(text, at, &wanted))
}

/// ` ?[wanted]+[tail]*`
fn marks(
    text: &[u8],
    at: usize,
    wanted: impl Fn(char) -> bool,
    tail: impl Fn(char) -> bool,
) -> Option<usize> {
    let end = after_one(text, at, |c| c == ' ', wanted)?;
    Some(run_end(text, end, tail, usize::MAX))
}

/// `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+` or else
/// `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*`, of letters that are `allowed`.
fn cased_word(text: &[u8], at: usize, allowed: impl Fn(char) -> bool) -> Option<usize> {
    let (c, len) = char_at(text, at)?;
    let runs = |start| (start, CasedRuns::at(text, start, &allowed));
    let tries = [is_lead(c).then(|| runs(at + len)), Some(runs(at))];
    let ending_small = tries.iter().flatten().find_map(|(_, runs)| runs.ending_small());
    ending_small.or_else(|| {
        let capitals = tries.iter().flatten().find(|(start, runs)| runs.capitals_end > *start);
        capitals.map(|(_, runs)| runs.small_end)
    })
}

/// A run of letters that are not small, and the run of letters that are no capitals after it.
struct CasedRuns {
    capitals_end: usize,
    small_end: usize,
    /// End of the last letter of the first run that could belong to the second as well.
    both_end: Option<usize>,
}

impl CasedRuns {
    fn at(text: &[u8], start: usize, allowed: impl Fn(char) -> bool) -> CasedRuns {
        let mut runs = CasedRuns { capitals_end: start, small_end: start, both_end: None };
        while let Some((c, len)) = char_at(text, runs.capitals_end) {
            match category_of(c) {
                Category::Capital | Category::Title if allowed(c) => runs.capitals_end += len,
                Category::OtherLetter | Category::NonspacingMark | Category::OtherMark if allowed(c) => {
                    runs.capitals_end += len;
                    runs.both_end = Some(runs.capitals_end);
                }
                _ => break,
            }
        }
        let small = |c: char| {
            let category = category_of(c);
            let no_capital = matches!(
                category,
                Category::Small | Category::OtherLetter | Category::NonspacingMark | Category::OtherMark
            );
            no_capital && allowed(c)
        };
        runs.small_end = run_end(text, runs.capitals_end, small, usize::MAX);
        runs
    }

    /// Where the match of the first form ends: after the small letters, or, when there are none, after the last
    /// letter that passes for one.
    fn ending_small(&self) -> Option<usize> {
        if self.small_end > self.capitals_end { Some(self.small_end) } else { self.both_end }
    }
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)?` after a word that ends at `end`.
fn with_contraction(text: &[u8], end: usize) -> Option<usize> {
    Some(contraction(text, end).unwrap_or(end))
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
fn contraction(text: &[u8], at: usize) -> Option<usize> {
    contraction_end(text, at, true)
}

/// `\s+(?!\S)|\s+`
fn spaces(text: &[u8], at: usize) -> Option<usize> {
    let (c, _) = char_at(text, at)?;
    is_space(c).then(|| space_end(text, at))
}

/// `\s+$`. Looked at only where a run of spaces begins: if it does not reach the end from there, it never does.
fn last_spaces(text: &[u8], at: usize) -> Option<usize> {
    if char_before(text, at).is_some_and(is_space) {
        return None;
    }
    some(text, at, is_space).filter(|end| *end == text.len())
}

/// `(?=(\d{3})+(?!\d))` cuts numbers into threes from the right. What is left over goes first; it is looked for only
/// where a number begins.
pub(crate) const THREES_FROM_THE_RIGHT: Pattern = Pattern::AnyOf(&[|text, at| {
    let digit = |c: char| category_of(c) == Category::Number;
    let three = run_end(text, at, digit, 3);
    if three == at || char_before(text, at).is_some_and(digit) {
        return (three > at).then_some(three);
    }
    let run = run_end(text, at, digit, usize::MAX);
    let n_digits = String::from_utf8_lossy(&text[at..run]).chars().count();
    Some(if n_digits.is_multiple_of(3) { three } else { run_end(text, at, digit, n_digits % 3) })
}]);

/// `[0-9][0-9][0-9]`
fn three_ascii_digits(text: &[u8], at: usize) -> Option<usize> {
    text.get(at..at + 3)?.iter().all(u8::is_ascii_digit).then_some(at + 3)
}

/// `'s|'t|'re|'ve|'m|'ll|'d` at `at`; None when there is no contraction. When folding case, ſ (U+017F) is an s too,
/// because Unicode folds it so and the regex engines follow.
fn contraction_end(text: &[u8], at: usize, fold: bool) -> Option<usize> {
    let tail = text[at..].strip_prefix(b"'")?;
    let lower = |index: usize| -> Option<u8> {
        let byte = *tail.get(index)?;
        Some(if fold { byte.to_ascii_lowercase() } else { byte })
    };
    let second = lower(1);
    let len = match lower(0)? {
        b's' | b't' | b'm' | b'd' => 1,
        b'r' | b'v' if second == Some(b'e') => 2,
        b'l' if second == Some(b'l') => 2,
        _ if fold && tail.starts_with("ſ".as_bytes()) => "ſ".len(),
        _ => return None,
    };
    Some(at + 1 + len)
}

/// `\s+(?!\S)|\s+` at a whitespace character: the run without its last character when text follows it (that one may
/// belong to the next word), and the whole run at the end of the text.
fn space_end(text: &[u8], at: usize) -> usize {
    let mut end = at;
    let mut last = at;
    while let Some((c, len)) = char_at(text, end) {
        if class_of(c) != CharClass::Space {
            break;
        }
        last = end;
        end += len;
    }
    if end == text.len() || last == at { end } else { last }
}

/// End of GPT-2's pre-token at `at`.
fn gpt2_end(text: &[u8], at: usize) -> usize {
    if let Some(end) = contraction_end(text, at, false) {
        return end;
    }
    let word = if text[at] == b' ' { at + 1 } else { at };
    if let Some((c, _)) = char_at(text, word) {
        let class = class_of(c);
        if class != CharClass::Space {
            return class_run_end(text, word, class);
        }
    }
    space_end(text, at)
}

/// End of Llama 3's (or Qwen 2's) pre-token at `at`.
fn llama3_end(text: &[u8], at: usize, digits: usize) -> usize {
    if let Some(end) = contraction_end(text, at, true) {
        return end;
    }
    let Some((c, len)) = char_at(text, at) else {
        return text.len();
    };
    let class = class_of(c);
    match class {
        CharClass::Letter => return class_run_end(text, at, class),
        CharClass::Number => return run_end(text, at, |c| class_of(c) == class, digits),
        CharClass::Space | CharClass::Other => {}
    }
    let newline = |c: char| c == '\r' || c == '\n';
    let next = char_at(text, at + len).map(|(c, _)| class_of(c));
    // [^\r\n\p{L}\p{N}]?\p{L}+
    if next == Some(CharClass::Letter) && !newline(c) {
        return class_run_end(text, at + len, CharClass::Letter);
    }
    // ` ?[^\s\p{L}\p{N}]+[\r\n]*`
    let marks = if c == ' ' && next == Some(CharClass::Other) { at + 1 } else { at };
    let end = class_run_end(text, marks, CharClass::Other);
    if end > marks {
        return run_end(text, end, newline, usize::MAX);
    }
    newline_end(text, at).unwrap_or_else(|| space_end(text, at))
}

/// `\s*[\r\n]+`: up to the last line break of the whitespace run at `at`.
fn newline_end(text: &[u8], at: usize) -> Option<usize> {
    let run = class_run_end(text, at, CharClass::Space);
    let last = text[at..run].iter().rposition(|byte| matches!(byte, b'\r' | b'\n'))?;
    Some(at + last + 1)
}
