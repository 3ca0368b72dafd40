//! Rows of a CSV file (RFC 4180). A cell holds no line break here, so every line is a row: a quote that is not closed
//! spoils one row, and every row's line number is right.

use std::io::{BufRead, Result};

/// A longer line is no row.
const LONGEST: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// What may stand between cells; all are of one byte.
const SEPARATORS: [char; 3] = [',', ';', '\t'];

/// One row: its cells, or what is wrong with it.
pub(super) type Cells = std::result::Result<Vec<String>, String>;

/// Rows that hold anything, with their line numbers.
pub(super) struct Rows<R> {
    input: R,
    line: usize,
    done: u64,
    /// What stands between cells; the first row that is not empty shows it.
    separator: Option<char>,
}

impl<R: BufRead> Rows<R> {
    /// Of a text.
    pub(super) fn new(input: R) -> Self {
        Self { input, line: 0, done: 0, separator: None }
    }

    /// Bytes read so far.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// The next row that is not empty: its line, from 1, and its cells.
    ///
    /// # Errors
    /// When the text cannot be read.
    pub(super) fn next_row(&mut self) -> Result<Option<(usize, Cells)>> {
        while let Some(line) = self.next_line()? {
            let Some(line) = line else {
                return Ok(Some((self.line, Err("the line is too long for a row".into()))));
            };
            let mut text = line.as_slice();
            if self.line == 1 {
                text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
                self.separator = stated(text);
                if self.separator.is_some() {
                    continue;
                }
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
        Ok(None)
    }

    /// The next line without its end, which is LF, CR LF, or CR alone; nothing within where it is too long.
    fn next_line(&mut self) -> Result<Option<Option<Vec<u8>>>> {
        let mut line = Vec::new();
        let mut length = 0;
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let end = buffer.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &buffer[..end.unwrap_or(buffer.len())];
            length += part.len();
            if length <= LONGEST {
                line.extend_from_slice(part);
            }
            let ended = end.map(|end| buffer[end]);
            let count = part.len() + usize::from(ended.is_some());
            self.pass(count);
            if let Some(end) = ended {
                if end == b'\r' && self.input.fill_buf()?.first() == Some(&b'\n') {
                    self.pass(1);
                }
                self.line += 1;
                return Ok(Some((length <= LONGEST).then_some(line)));
            }
        }
        if length == 0 {
            return Ok(None);
        }
        self.line += 1;
        Ok(Some((length <= LONGEST).then_some(line)))
    }

    fn pass(&mut self, count: usize) {
        self.input.consume(count);
        self.done += count as u64;
    }
}

/// The separator that Excel's first line states, as in `sep=;`. It may be in quotes, or filled up to the width of the table.
fn stated(line: &[u8]) -> Option<char> {
    let text = std::str::from_utf8(line).ok()?.trim_matches([' ', '"']);
    let (name, value) = text.split_at_checked(4)?;
    let mut signs = value.trim_matches('"').chars();
    let sign = signs.next().filter(|sign| SEPARATORS.contains(sign))?;
    (name.eq_ignore_ascii_case("sep=") && signs.all(|more| more == sign || more == '"')).then_some(sign)
}

/// What separates the cells of a header: a comma; where there is none, the semicolon that a spreadsheet writes where the comma
/// stands in numbers, or a tab.
fn separator(header: &[u8]) -> char {
    SEPARATORS.into_iter().find(|sign| header.contains(&(*sign as u8))).unwrap_or(',')
}

fn cells(line: &[u8], separator: char) -> Cells {
    let text = std::str::from_utf8(line)
        .map_err(|_| "it is not UTF-8: save the table as \"CSV UTF-8\"".to_owned())?;
    let mut cells = Vec::new();
    let mut rest = Some(text);
    while let Some(text) = rest {
        let blank = |c: char| c.is_whitespace() && c != separator;
        let (cell, after) = match text.trim_start_matches(blank).strip_prefix('"') {
            Some(quoted) => {
                let (cell, after) = unquote(quoted).ok_or_else(|| {
                    let number = cells.len() + 1;
                    format!("the quote of its value {number} is not closed in this line, and no value has a line break")
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
        let long = "x".repeat(LONGEST + 7);
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
    fn any_line_ends_and_what_excel_states_first() {
        let read = |text: &str| {
            let mut rows = Rows::new(text.as_bytes());
            let mut found = Vec::new();
            while let Some((line, cells)) = rows.next_row().expect("read") {
                found.push(format!("{line}:{}", cells.unwrap_or_else(|error| vec![error]).join("|")));
            }
            assert_eq!(rows.done(), text.len() as u64);
            found
        };
        for end in ["\n", "\r\n", "\r"] {
            assert_eq!(read(&format!("a,b{end}c,d{end}{end}e,f")), ["1:a|b", "2:c|d", "4:e|f"], "{end:?}");
            for first in ["sep=;", "SEP=;", "\"sep=;\"", "sep=;;;", "\u{feff}sep=;"] {
                assert_eq!(read(&format!("{first}{end}a;b,c{end}d;e{end}")), ["2:a|b,c", "3:d|e"], "{first}");
            }
        }
        assert_eq!(read("sep=\t\na;b\tc\n"), ["2:a;b|c"]);
        assert_eq!(read("sep=,\na,b\n"), ["2:a|b"]);
        // Only there, and only with a separator.
        assert_eq!(read("a\nsep=;\n"), ["1:a", "2:sep=;"]);
        assert_eq!(read("sep=x\n"), ["1:sep=x"]);
        let broken = read("a,b\n\"c\nd\",e\n");
        assert!(broken[1].contains("no value has a line break"), "{broken:?}");
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
