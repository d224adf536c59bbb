//! What the fuzz targets and the replay of their corpus check. Each function panics or returns words on failure.

use lamplight::formats::gguf::{MAX_HEADER_BYTES, Parsed, parse};
use lamplight::formats::safetensors;

/// Parses `file` with its size known and unknown: no panic, no request for what is there or cannot be there, and
/// a header that keeps its promises.
pub(crate) fn header(file: &[u8]) -> Result<(), String> {
    for file_len in [Some(file.len() as u64), None] {
        match parse(file, file_len) {
            Ok(Parsed::NeedMore(n_bytes)) => {
                if file_len.is_some() {
                    return Err(format!("asks for {n_bytes} of {} bytes", file.len()));
                }
                if n_bytes <= file.len() as u64 || n_bytes > MAX_HEADER_BYTES {
                    return Err(format!("has {} bytes and asks for {n_bytes}", file.len()));
                }
            }
            Ok(Parsed::Header(header)) => {
                let mut end = header.data_offset;
                for tensor in &header.tensors {
                    if tensor.offset < end
                        || !(tensor.offset - header.data_offset).is_multiple_of(header.alignment)
                    {
                        return Err(format!("{} overlaps or is out of line", tensor.name));
                    }
                    end = tensor.offset + tensor.n_bytes;
                }
                if file_len.is_some_and(|file_len| !header.tensors.is_empty() && end > file_len) {
                    return Err(format!("tensors end at {end} of {} bytes", file.len()));
                }
            }
            Err(error) if error.message().is_empty() => return Err("an error without a message".into()),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Feeds `file` in prefixes that grow by `steps`, over and over: each asks for more, or ends as the whole file does.
pub(crate) fn stream(file: &[u8], steps: &[usize], file_len: Option<u64>) -> Result<(), String> {
    let outcome = |prefix: &[u8]| match parse(prefix, file_len) {
        Ok(Parsed::NeedMore(n_bytes)) => Err(n_bytes),
        Ok(Parsed::Header(header)) => Ok(format!("{header:?}")),
        Err(error) => Ok(error.to_string()),
    };
    let whole = outcome(file);
    let mut len = 0;
    for step in steps.iter().cycle() {
        match outcome(&file[..len]) {
            Err(n_bytes) if n_bytes <= len as u64 => {
                return Err(format!("has {len} bytes and asks for {n_bytes}"));
            }
            Err(_) => {}
            Ok(end) if Ok(&end) == whole.as_ref() => return Ok(()),
            Ok(end) => return Err(format!("{len} bytes end with {end}, all with {whole:?}")),
        }
        if len == file.len() {
            return Ok(());
        }
        len = (len + step.max(&1)).min(file.len());
    }
    Ok(())
}

/// Parses `file` as a safetensors header, as an index of shards and as a config.json: no panic, and a header whose tensors
/// follow each other within the file.
pub(crate) fn folder(file: &[u8]) -> Result<(), String> {
    for file_len in [Some(file.len() as u64), None] {
        match safetensors::parse(file, file_len) {
            Ok(safetensors::Parsed::NeedMore(n_bytes))
                if n_bytes <= file.len() as u64 || file_len.is_some() =>
            {
                return Err(format!("has {} bytes and asks for {n_bytes}", file.len()));
            }
            Ok(safetensors::Parsed::Header(header)) => {
                let mut end = header.tensors.first().map_or(header.data_end, |tensor| tensor.offset);
                for tensor in &header.tensors {
                    if tensor.offset != end {
                        return Err(format!("{} overlaps or leaves a hole", tensor.name));
                    }
                    end += tensor.n_bytes;
                }
                if end != header.data_end || file_len.is_some_and(|file_len| end > file_len) {
                    return Err(format!("tensors end at {end} of {} bytes", file.len()));
                }
            }
            Ok(safetensors::Parsed::NeedMore(_)) => {}
            Err(error) if error.message().is_empty() => return Err("an error without a message".into()),
            Err(_) => {}
        }
    }
    if let Ok(index) = safetensors::parse_index(file)
        && index.shards.iter().any(|name| name.contains(['/', '\\']))
    {
        return Err("a shard in another folder".into());
    }
    if let Ok(config) = serde_json::from_slice(file) {
        // Errors are as good as metadata here.
        let _ = lamplight::formats::config_json::metadata(&config, Some(&config), "x");
    }
    Ok(())
}
