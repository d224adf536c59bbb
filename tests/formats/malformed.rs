//! The table of malformed files, natively.

use super::table;

#[test]
fn every_malformed_file_gives_its_error() {
    let failures = table::run_all();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_table_covers_the_whole_list() {
    let rows = table::rows();
    let names: std::collections::HashSet<_> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len(), "names are unique");
    // 33 is a decision, tested with the valid files; 40 to 42 are the tokenizer's.
    for number in (1..=39).filter(|number| *number != 33) {
        let prefix = format!("{number} ");
        assert!(names.iter().any(|name| name.starts_with(&prefix)), "no row for {number}");
    }
}
