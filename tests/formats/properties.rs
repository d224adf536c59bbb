//! Properties over random damage: nothing panics, nothing but typed errors, prefixes agree with the whole.

use super::checks;
use super::table::load;
use crate::common::gguf_writer::tiny_llama;
use lamplight::error::ErrorCode;
use proptest::prelude::*;

/// Values that overflow something when they are taken for a count, a length or an offset.
fn hostile() -> impl Strategy<Value = u64> {
    let edges = [
        0,
        1,
        31,
        1 << 16,
        1 << 31,
        1 << 32,
        (1 << 32) - 1,
        1 << 61,
        1 << 62,
        i64::MAX as u64,
        1 << 63,
        u64::MAX,
    ];
    prop_oneof![prop::sample::select(edges.to_vec()), any::<u64>(), 0u64..10_000]
}

/// Places in the header mostly, in the data sometimes.
fn place(header_len: usize, file_len: usize) -> impl Strategy<Value = usize> {
    prop_oneof![9 => 0..header_len, 1 => 0..file_len]
}

/// One act of damage.
#[derive(Clone, Debug)]
enum Damage {
    Byte(usize, u8),
    Number(usize, u64, usize),
    Cut(usize),
    Insert(usize, u8),
    Remove(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let writer = tiny_llama();
    let (header_len, file_len) = (writer.header().len(), writer.file().len());
    let at = move || place(header_len, file_len);
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        (at(), hostile(), prop::sample::select(vec![4, 8]))
            .prop_map(|(at, number, width)| Damage::Number(at, number, width)),
        at().prop_map(Damage::Cut),
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        at().prop_map(Damage::Remove),
    ]
}

fn damaged(acts: &[Damage]) -> Vec<u8> {
    let mut file = tiny_llama().file();
    for act in acts {
        match *act {
            Damage::Byte(at, byte) if at < file.len() => file[at] = byte,
            Damage::Number(at, number, width) if at + width <= file.len() => {
                file[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
            }
            Damage::Cut(at) => file.truncate(at),
            Damage::Insert(at, byte) if at < file.len() => file.insert(at, byte),
            Damage::Remove(at) if at < file.len() => {
                file.remove(at);
            }
            // An earlier cut took the place away.
            _ => {}
        }
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_loads_or_gives_a_typed_error(acts in prop::collection::vec(damage(), 1..4)) {
        let file = damaged(&acts);
        if let Err(error) = load(&file, file.len() as u64) {
            prop_assert_ne!(error.code(), ErrorCode::Internal, "{}", error);
            prop_assert!(!error.message().is_empty());
        }
    }

    #[test]
    fn any_chunking_ends_as_the_whole_does(
        acts in prop::collection::vec(damage(), 0..3),
        cuts in prop::collection::vec(1usize..300, 1..20),
    ) {
        let file = damaged(&acts);
        prop_assert_eq!(checks::stream(&file, &cuts, Some(file.len() as u64)), Ok(()));
        prop_assert_eq!(checks::stream(&file, &cuts, None), Ok(()));
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(&bytes);
        prop_assert_eq!(checks::header(&file), Ok(()));
        prop_assert_eq!(checks::header(&bytes), Ok(()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Files of a Hugging Face folder, damaged.
    #[test]
    fn damaged_folders_are_refused_or_read(
        number in hostile(),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        which in 0usize..3,
    ) {
        let tensors = format!(
            r#"{{"a":{{"dtype":"F32","shape":[{number}],"data_offsets":[0,8]}},"b":{{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}}}"#
        );
        let header = [&(tensors.len() as u64).to_le_bytes()[..], tensors.as_bytes(), &[7; 11]].concat();
        let index = br#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#.to_vec();
        let config = format!(
            r#"{{"hidden_size":64,"num_attention_heads":4,"head_dim":{number},"num_hidden_layers":{number},"sliding_window":16,
            "use_sliding_window":true,"max_window_layers":1,"rope_scaling":{{"type":"llama3","factor":8,"low_freq_factor":1,
            "high_freq_factor":4,"original_max_position_embeddings":{number}}}}}"#
        );
        let mut file = vec![header, index, config.into_bytes()].swap_remove(which);
        prop_assert_eq!(checks::folder(&file), Ok(()));
        for (place, byte) in places {
            let at = place.index(file.len());
            file[at] = byte;
        }
        file.truncate(cut.index(file.len()) + 1);
        prop_assert_eq!(checks::folder(&file), Ok(()));
    }
}
