//! The hand-written scanners and tables against the reference `tokenizers` crate and its regex engine.

use proptest::prelude::*;
use tokenizers::normalizers::unicode::{NFC, NFD, NFKC, NFKD};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
    SplitDelimiterBehavior,
};

use super::chars::{Category, CharClass, category_of, class_of, is_mark, is_punctuation};
use super::nfc::{Compatible, nfc, nfd};
use super::patterns::KNOWN;
use super::pretokenize::{PreTokenizer, pre_kind};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MARKS: &str = r"[\p{P}\$\+<=>\^~\|]+";
const FALCON_MARKS: &str = r"[\p{P}\$\+<=>\^~\|`]+";
const EAST_ASIAN: &str = "[一-龥ࠀ-一가-\u{d7ff}]+";

fn splitter(regex: &str) -> Split {
    Split::new(SplitPattern::Regex(regex.into()), SplitDelimiterBehavior::Isolated, false).expect("a regex")
}

fn reference(splits: &[Split], text: &str) -> Vec<String> {
    let mut pieces = PreTokenizedString::from(text);
    for split in splits {
        split.pre_tokenize(&mut pieces).expect("splits");
    }
    let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
    pieces.into_iter().map(|(piece, ..)| piece.to_string()).collect()
}

fn ours(pre: &PreTokenizer, text: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    pre.split(text.as_bytes(), true, &mut |piece| {
        pieces.push(String::from_utf8(piece.to_vec()).expect("cut between characters"));
    });
    pieces
}

/// Characters at which the regexes turn, among others of every kind.
fn character() -> impl Strategy<Value = char> {
    let turning = "/\u{1c5}\u{2b0}ªΩK龥ゟ가ࠀ` \t\n\r\u{b}\u{c}\u{85}\u{a0}\u{2003}\u{2028}\u{3000}'''sStTrReEvVmMlLdDſKaZé中あ한\u{301}\u{345}０1239Ⅷ½٣२.,!?-_<>|$+=^~#@©🦀\u{200d}\u{fe0f}\u{feff}\0\u{7f}";
    let turning: Vec<char> = turning.chars().collect();
    prop_oneof![8 => proptest::sample::select(turning), 1 => any::<char>()]
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(character(), 0..40).prop_map(String::from_iter)
}

fn check(what: &str, pre: &PreTokenizer, regexes: &[&str], cases: u32) {
    let splits: Vec<Split> = regexes.iter().copied().map(splitter).collect();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&text(), |text| {
        prop_assert_eq!(ours(pre, &text), reference(&splits, &text), "{:?}", text);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{what}: {error}"));
}

/// The pre-tokenizer that GGUF calls `name`, against regexes applied one after the other.
fn check_kind(name: &str, regexes: &[&str]) {
    check(name, &PreTokenizer::isolating(pre_kind(Some(name)).expect("known").patterns), regexes, 4000);
}

#[test]
fn gpt2_splits_as_its_regex() {
    check_kind("gpt-2", &[GPT2]);
}

#[test]
fn smollm_splits_as_its_regexes() {
    check_kind("smollm", &[r"\p{N}", GPT2]);
}

#[test]
fn llama3_splits_as_its_regex() {
    check_kind("llama-bpe", &[LLAMA3]);
}

#[test]
fn qwen2_splits_as_its_regex() {
    check_kind("qwen2", &[QWEN2]);
}

#[test]
fn default_splits_as_its_regexes() {
    let regexes = [MARKS, GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];
    check_kind("default", &regexes);
    let missing = PreTokenizer::isolating(pre_kind(None).expect("the default").patterns);
    check("none", &missing, &regexes, 500);
}

#[test]
fn falcon_splits_as_its_regexes() {
    check_kind("falcon", &[FALCON_MARKS, GPT2, "[0-9][0-9][0-9]"]);
}

#[test]
fn deepseek_coder_splits_as_its_regexes() {
    check_kind("deepseek-coder", &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, r"\p{N}"]);
}

#[test]
fn deepseek_llm_splits_as_its_regexes() {
    let regex = |part: &str| {
        let found = KNOWN.iter().map(|(regex, _)| *regex).find(|regex| regex.contains(part));
        found.expect("a known regex")
    };
    let regexes = ["[\r\n]", regex("A-Za-zµ"), regex("!-/:-~！"), r"\s+$", EAST_ASIAN, r"\p{N}+"];
    check_kind("deepseek-llm", &regexes);
}

#[test]
fn viking_splits_as_its_regexes() {
    check_kind("viking", &[" ?[^(\\s|.,!?…。，、।۔،)]+", r"\p{N}"]);
}

#[test]
fn superbpe_groups_digits_from_the_right() {
    let pre = PreTokenizer::isolating(pre_kind(Some("superbpe")).expect("known").patterns);
    let all = "in 1234567 or 12 or 123456, 1 and ٣٤٥٦";
    let pieces =
        ["in ", "1", "234", "567", " or ", "12", " or ", "123", "456", ", ", "1", " and ", "٣", "٤٥٦"];
    assert_eq!(ours(&pre, all), pieces);
    let long = "9".repeat(100_000);
    assert_eq!(ours(&pre, &long).len(), 33_334);
}

#[test]
fn every_scanner_splits_as_its_regex() {
    for (regex, pattern) in KNOWN {
        check(regex, &PreTokenizer::isolating(&[*pattern]), &[regex], 1500);
    }
}

/// Every character that `regex` matches, as ranges.
fn matched_ranges(regex: &str) -> Vec<(u32, u32)> {
    let split = splitter(regex);
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for start in (0..0x11_0000u32).step_by(1 << 14) {
        // A character that no class has keeps the others from joining.
        let wanted = |text: &str| text.chars().count() == 1;
        let text: String = (start..start + (1 << 14)).filter_map(char::from_u32).collect();
        for piece in reference(std::slice::from_ref(&split), &text).iter().filter(|piece| wanted(piece)) {
            let code = piece.chars().next().map_or(0, u32::from);
            // A lone unmatched character between two matches looks the same: ask again without neighbours.
            let doubled = format!("{piece}{piece}");
            if reference(std::slice::from_ref(&split), &doubled).len() != 2 {
                continue;
            }
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == code => *last = code,
                _ => ranges.push((code, code)),
            }
        }
    }
    ranges
}

#[test]
fn the_categories_are_those_of_the_regex_engine() {
    let is = |category: Category| move |c: char| category_of(c) == category;
    let tables: [(&str, &dyn Fn(char) -> bool); 11] = [
        (r"\p{L}", &|c| class_of(c) == CharClass::Letter),
        (r"\p{N}", &|c| class_of(c) == CharClass::Number),
        (r"\p{P}", &is_punctuation),
        (r"\p{M}", &is_mark),
        (r"\p{Lu}", &is(Category::Capital)),
        (r"\p{Ll}", &is(Category::Small)),
        (r"\p{Lt}", &is(Category::Title)),
        (r"[\p{Lm}\p{Lo}]", &is(Category::OtherLetter)),
        (r"\p{Mn}", &is(Category::NonspacingMark)),
        (r"\p{S}", &is(Category::Symbol)),
        (r"\p{Cf}", &is(Category::Format)),
    ];
    for (regex, ours) in tables {
        let ranges = matched_ranges(regex);
        for c in (0..0x11_0000).filter_map(char::from_u32) {
            let after = ranges.partition_point(|(first, _)| *first <= c as u32);
            let wanted = after > 0 && c as u32 <= ranges[after - 1].1;
            assert_eq!(ours(c), wanted, "{regex}: U+{:04X}", c as u32);
        }
    }
}

#[test]
fn spaces_are_those_of_the_regex_engine() {
    let spaces = matched_ranges(r"\s");
    for code in 0..0x11_0000u32 {
        let Some(c) = char::from_u32(code) else { continue };
        let expected = spaces.iter().any(|(first, last)| (*first..=*last).contains(&code));
        assert_eq!(class_of(c) == CharClass::Space, expected, "U+{code:04X}");
    }
    assert!(!is_punctuation(' '));
}

fn reference_form(form: &impl Normalizer, text: &str) -> String {
    let mut normalized = NormalizedString::from(text);
    form.normalize(&mut normalized).expect("normalises");
    normalized.get().to_string()
}

fn reference_nfc(text: &str) -> String {
    reference_form(&NFC, text)
}

#[test]
fn every_character_takes_the_other_forms_as_the_reference_does() {
    let [kc, kd] = [true, false].map(Compatible::new);
    let mut n_newer = 0;
    // Alone, and before marks that are put in another order and composed. (The reference knows fewer marks.)
    for c in (0..0x11_0000u32).filter_map(char::from_u32) {
        let (alone, ours) = (c.to_string(), nfd(&c.to_string()));
        if ours != alone && reference_form(&NFD, &alone) == alone {
            assert_eq!(
                *nfc(ours.as_bytes()),
                *alone.as_bytes(),
                "known since later than the reference: {alone:?}"
            );
            n_newer += 1;
            continue;
        }
        let before_marks = format!("{c}\u{301}\u{323}");
        for text in [Some(c.to_string()), Some(before_marks).filter(|_| !is_mark(c))].into_iter().flatten() {
            assert_eq!(nfd(&text), reference_form(&NFD, &text), "{text:?}");
            assert_eq!(kc.apply(&text), reference_form(&NFKC, &text), "{text:?}");
            assert_eq!(kd.apply(&text), reference_form(&NFKD, &text), "{text:?}");
        }
    }
    assert!(n_newer < 10, "{n_newer} characters are newer than the reference");
}

#[test]
fn every_character_normalises_as_the_reference_does() {
    for code in 0..0x11_0000u32 {
        let Some(c) = char::from_u32(code) else { continue };
        let text = c.to_string();
        assert_eq!(String::from_utf8_lossy(&nfc(text.as_bytes())), reference_nfc(&text), "U+{code:04X}");
    }
}

#[test]
fn sequences_normalise_as_the_reference_does() {
    let parts: Vec<char> = "eaoAEsd\u{301}\u{300}\u{302}\u{308}\u{323}\u{327}\u{345}\u{3b1}\u{313}ạǭ각각가\u{9c7}\u{9be}\u{1100}\u{f71}\u{f72}\u{2126}\u{fb1d}".chars().collect();
    // The reference knows fewer marks, and leaves those where they are that it does not know.
    let known = any::<char>().prop_filter("a mark that the reference does not know", |c| {
        let before_lowest = format!("{c}\u{334}");
        nfd(&before_lowest) == reference_form(&NFD, &before_lowest)
    });
    let any = prop_oneof![6 => proptest::sample::select(parts), 1 => known];
    let text = proptest::collection::vec(any, 0..12).prop_map(String::from_iter);
    let config = ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() };
    let result = proptest::test_runner::TestRunner::new(config).run(&text, |text| {
        let ours = nfc(text.as_bytes()).into_owned();
        prop_assert_eq!(String::from_utf8_lossy(&ours), reference_nfc(&text), "{:?}", text);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn bytes_that_are_not_text_pass_through_normalisation() {
    assert_eq!(&*nfc(b"e\xcc\x81\xff e\xcc"), b"\xc3\xa9\xff e\xcc");
}
