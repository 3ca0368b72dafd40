//! Rows of a CSV file (RFC 4180). A cell holds no line break here, so every line is a row: a quote that is not closed
//! spoils one row, and every row's line number is right.

use std::io::{BufRead, Read as _, Result};

/// A longer line is no row.
const LONGEST: u64 = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One row: its cells, or what is wrong with it.
pub type Cells = std::result::Result<Vec<String>, String>;

/// Rows that hold anything, with their line numbers.
pub struct Rows<R> {
    input: R,
    line: usize,
    done: u64,
    /// What stands between cells; the first row that is not empty shows it.
    separator: Option<char>,
}

impl<R: BufRead> Rows<R> {
    /// Of a text.
    pub fn new(input: R) -> Self {
        Self { input, line: 0, done: 0, separator: None }
    }

    /// Bytes read so far.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The next row that is not empty: its line, from 1, and its cells.
    ///
    /// # Errors
    /// When the text cannot be read.
    pub fn next_row(&mut self) -> Result<Option<(usize, Cells)>> {
        loop {
            let mut line = Vec::new();
            let count = (&mut self.input).take(LONGEST).read_until(b'\n', &mut line)? as u64;
            if count == 0 {
                return Ok(None);
            }
            self.done += count;
            self.line += 1;
            if count == LONGEST && line.last() != Some(&b'\n') {
                self.done += self.input.skip_until(b'\n')? as u64;
                return Ok(Some((self.line, Err("the line is too long for a row".into()))));
            }
            let mut text = line.strip_suffix(b"\n").unwrap_or(&line);
            text = text.strip_suffix(b"\r").unwrap_or(text);
            if self.line == 1 {
                text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
            }
            let separator = self.separator.unwrap_or_else(|| separator(text));
            let cells = cells(text, separator);
            // A row of commas only is what spreadsheets leave at the end.
            if cells.as_ref().is_ok_and(|cells| cells.iter().all(String::is_empty)) {
                continue;
            }
            self.separator = Some(separator);
            return Ok(Some((self.line, cells)));
        }
    }
}

/// What separates the cells of a header: a comma; where there is none, the semicolon that a spreadsheet writes where the comma
/// stands in numbers, or a tab.
fn separator(header: &[u8]) -> char {
    [b',', b';', b'\t'].into_iter().find(|sign| header.contains(sign)).map_or(',', char::from)
}

fn cells(line: &[u8], separator: char) -> Cells {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let mut cells = Vec::new();
    let mut rest = Some(text);
    while let Some(text) = rest {
        let blank = |c: char| c.is_whitespace() && c != separator;
        let (cell, after) = match text.trim_start_matches(blank).strip_prefix('"') {
            Some(quoted) => {
                let (cell, after) = unquote(quoted).ok_or_else(|| {
                    format!("the quote of its value {} is not closed in this line", cells.len() + 1)
                })?;
                (cell, after.trim_start_matches(blank))
            }
            None => {
                let end = text.find(separator).unwrap_or(text.len());
                (text[..end].trim().to_owned(), &text[end..])
            }
        };
        if cell.chars().any(char::is_control) {
            return Err(format!("its value {} has a control character", cells.len() + 1));
        }
        cells.push(cell);
        rest = match after {
            "" => None,
            _ => Some(after.strip_prefix(separator).ok_or_else(|| {
                format!(
                    "something stands behind the quotes of its value {}: a quote in a value is written twice",
                    cells.len()
                )
            })?),
        };
    }
    Ok(cells)
}

/// What stands in quotes, and what follows them.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut cell = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        cell.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                cell.push('"');
                rest = more;
            }
            None => return Some((cell, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, Rows, cells};

    #[test]
    fn rfc_4180() {
        for (line, expected) in [
            ("a,b,c", &["a", "b", "c"][..]),
            ("\"a\",\"b,\",\"c \"\"d\"\"\"", &["a", "b,", "c \"d\""]),
            (" a , \"b\" ,", &["a", "b", ""]),
            ("", &[""]),
            (",", &["", ""]),
            ("a\"b,c", &["a\"b", "c"]),
            ("\"\"", &[""]),
            ("é,\"ü\"", &["é", "ü"]),
        ] {
            assert_eq!(cells(line.as_bytes(), ',').expect(line), expected, "{line}");
            // Whatever else stands between them.
            if !line.contains(['d', '"']) {
                for (sign, other) in [(';', ";"), ('\t', "\t")] {
                    let line = line.replace(',', other);
                    assert_eq!(cells(line.as_bytes(), sign).expect(&line), expected, "{line}");
                }
            }
        }
        assert_eq!(cells(b"a;\"b;c\";d,e", ';').expect("cells"), ["a", "b;c", "d,e"]);
        for (line, expected) in [
            (&b"a,\"b"[..], "the quote of its value 2 is not closed"),
            (b"\"a\"b,c", "something stands behind the quotes of its value 1"),
            (b"\xff", "not UTF-8"),
            (b"a,b\tc", "its value 2 has a control character"),
        ] {
            let error = cells(line, ',').expect_err("wrong");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn lines_are_counted_whatever_they_hold() {
        let long = "x".repeat(LONGEST as usize + 7);
        let text = format!("\u{feff}h\r\n\r\n,,\n\"a\n{long}\nb");
        let mut rows = Rows::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some((line, cells)) = rows.next_row().expect("read") {
            found.push((line, cells.ok().map(|cells| cells.join("|"))));
        }
        assert_eq!(found, [(1, Some("h".into())), (4, None), (5, None), (6, Some("b".into()))]);
        assert_eq!(rows.done(), text.len() as u64);
    }

    #[test]
    fn any_bytes_are_safe() {
        let mut state = 7_u32;
        for _ in 0..20_000 {
            let line: Vec<u8> = (0..12)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b"\",a \r\xc3\xa9\n"[(state >> 16) as usize % 8]
                })
                .collect();
            let mut rows = Rows::new(line.as_slice());
            while rows.next_row().expect("read").is_some() {}
            assert_eq!(rows.done(), 12);
        }
    }
}
