//! The label file of a clip: from bytes to rows.
//!
//! The files in circulation were edited by many tools, so the reader is tolerant about their form (byte-order mark,
//! CRLF, spaces, quotes, column order, further columns, the headers of common variants) and strict about their meaning:
//! a row that does not say one clear thing is skipped and reported with its line, and a file that is not
//! comma-separated UTF-8 is refused with what it is.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use csv::{ReaderBuilder, StringRecord};

use super::super::report::ProblemKind;
use super::super::{Label, Visibility, count};
use crate::console::excerpt;

/// A row that says one clear thing.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its line, from 1.
    pub line: usize,
    /// The frame as the row names it, perhaps without an extension.
    pub file_name: String,
    /// What it says of the frame.
    pub label: Label,
}

/// The rows of one label file.
#[derive(Debug, Default)]
pub struct Table {
    /// Rows in the order of the file, one a frame.
    pub rows: Vec<Row>,
    /// Stems of the frames whose row was skipped: each has its problem already, and is not also "without a label".
    pub skipped: HashSet<String>,
    /// Rows of visible balls at a negative position; they were skipped.
    pub negative: usize,
    /// Rows that call the ball absent and give a position all the same, which is not used.
    pub absent_with_position: usize,
}

/// The first line of the label files that this program writes.
pub const HEADER: &str = "file name,visibility,x-coordinate,y-coordinate,status";

/// A line of a label file, without its end; positions in hundredths of a pixel, without zeros at the end.
pub fn line_of(file_name: &str, label: &Label, status: &str) -> String {
    let hundredths = |v: f32| ((f64::from(v) * 100.0).round() / 100.0).to_string();
    let [x, y] = label.xy.map_or([String::new(), String::new()], |xy| xy.map(hundredths));
    format!("{file_name},{},{x},{y},{status}", label.visibility as u8)
}

/// Receives the problems of a label file: what kind, the line from 1, and what was found and expected.
pub type Problems<'a> = &'a mut dyn FnMut(ProblemKind, usize, String);

/// Reads a label file; `None` when it is no comma-separated text with the columns that are needed.
pub fn parse(bytes: &[u8], problem: Problems<'_>) -> Option<Table> {
    let mut refuse = |line, detail| {
        problem(ProblemKind::BadLabelFile, line, detail);
        None
    };
    let text = match text_of(bytes) {
        Ok(text) => text,
        Err(detail) => return refuse(1, detail),
    };
    let mut records = Records::new(&text);
    let mut header = records.next();
    // Spreadsheets can be told the separator in a line of its own; the header shows whether it is the comma.
    if header.as_ref().is_some_and(|record| record.text.starts_with("sep=")) {
        header = records.next();
    }
    let columns = match header.as_ref().map(|header| (header.line, Columns::from_header(header))) {
        Some((_, Ok(columns))) => columns,
        Some((line, Err(detail))) => return refuse(line, detail),
        None => return refuse(1, "the label file is empty".to_owned()),
    };
    let mut table = Table::default();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for record in records {
        let line = record.line;
        match columns.row(&record) {
            Ok(row) => match seen.get(&row.file_name) {
                Some(first) => {
                    let detail = format!("{}: first labelled in line {first}", shown(&row.file_name));
                    problem(ProblemKind::DuplicateRow, line, detail);
                }
                None => {
                    seen.insert(row.file_name.clone(), line);
                    table.absent_with_position += usize::from(columns.contradicts(&record, &row));
                    table.rows.push(row);
                }
            },
            Err((kind, detail)) => {
                table.skipped.insert(stem(last_part(record.field(columns.file))).to_owned());
                table.negative += usize::from(kind == ProblemKind::OutsideFrame);
                problem(kind, line, detail);
            }
        }
    }
    Some(table)
}

/// The text of a label file, or what the file is instead. A byte that is no UTF-8 becomes the replacement character: it
/// does no harm outside the names of frames.
fn text_of(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    if let Some((_, found)) = OTHER_FILES.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Err(format!("this is {found}"));
    }
    if let Some(encoding) = wide_encoding(bytes) {
        return Err(format!("the text is {encoding}, save as UTF-8 (in spreadsheets: CSV UTF-8, comma-separated)"));
    }
    if bytes.contains(&b'\r') && !bytes.contains(&b'\n') {
        return Err("lines end with CR only, save with line ends of LF or CRLF".to_owned());
    }
    Ok(String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)))
}

/// How files begin that were given the name of a label file, and what to do.
const OTHER_FILES: [(&[u8], &str); 7] = [
    (b"PK\x03\x04", "a spreadsheet or a ZIP archive, expected text: export it as CSV UTF-8, comma-separated"),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet, expected text: export it as CSV UTF-8, comma-separated"),
    (b"\x1f\x8b", "compressed by gzip, expected text: unpack it"),
    (b"\x00\x05\x16\x07", "what macOS keeps beside a file, expected text: copy the file itself"),
    (b"version https://git-lfs", "a pointer of Git LFS, expected labels: fetch the file with `git lfs pull`"),
    (b"<!DOCTYPE", "a web page, expected labels: download the file itself"),
    (b"<html", "a web page, expected labels: download the file itself"),
];

/// The encoding of text of two or four bytes a character: by its mark, or because ASCII in it has zeros in between.
fn wide_encoding(bytes: &[u8]) -> Option<&'static str> {
    let start = &bytes[..bytes.len().min(64)];
    let zeros = |from: usize| start.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    match start {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        _ if start.len() >= 8 && 4 * zeros(0).max(zeros(1)) >= start.len() => Some("UTF-16"),
        _ => None,
    }
}

/// One line of the file.
struct Record<'a> {
    /// From 1.
    line: usize,
    /// The line as it is.
    text: &'a str,
    /// Its fields; `None` when a quotation mark is opened and not closed on the line.
    fields: Option<StringRecord>,
}

impl Record<'_> {
    /// The fields without surrounding spaces and quotes.
    fn fields(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().flatten().map(|field| field.trim().trim_matches('"').trim())
    }

    /// One of [`Record::fields`], or nothing.
    fn field(&self, index: usize) -> &str {
        self.fields().nth(index).unwrap_or_default()
    }

    /// How many fields there are, without empty ones at the end.
    fn filled(&self) -> usize {
        self.fields().collect::<Vec<_>>().iter().rposition(|field| !field.is_empty()).map_or(0, |last| last + 1)
    }
}

/// The records of a text, without empty ones. A quotation mark that is not closed on its line costs that line, not the
/// rest of the file: from there on, quotation marks are characters as others.
struct Records<'a> {
    text: &'a str,
    reader: csv::Reader<&'a [u8]>,
    /// Where in the text the reader began.
    base: usize,
    /// Line and start of the last record.
    line: usize,
    start: usize,
}

impl<'a> Records<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, reader: reader(text, true), base: 0, line: 1, start: 0 }
    }
}

fn reader(text: &str, quoting: bool) -> csv::Reader<&[u8]> {
    ReaderBuilder::new().has_headers(false).flexible(true).quoting(quoting).from_reader(text.as_bytes())
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        loop {
            let mut fields = StringRecord::new();
            // Text in memory can be read; what cannot be split into fields is a line like any other.
            if !self.reader.read_record(&mut fields).unwrap_or(true) {
                return None;
            }
            let position = fields.position().map_or(0, |position| position.byte() as usize);
            let rest = self.text.get(self.base + position..)?;
            let rest = rest.trim_start_matches(['\r', '\n']);
            let start = self.text.len() - rest.len();
            self.line += self.text.get(self.start..start)?.matches('\n').count();
            self.start = start;
            let text = rest.split(['\r', '\n']).next().unwrap_or_default();
            let closed = !fields.iter().any(|field| field.contains('\n'));
            if !closed {
                self.base = start + text.len();
                self.reader = reader(self.text.get(self.base..)?, false);
            }
            let record = Record { line: self.line, text, fields: closed.then_some(fields) };
            if !closed || record.filled() > 0 {
                return Some(record);
            }
        }
    }
}

/// Columns of a label file, by name.
struct Columns {
    file: usize,
    visibility: usize,
    x: usize,
    y: usize,
    /// Fields of the header, and how many of them a row of a visible ball has at least: empty names at the end count
    /// only for the first.
    fields: usize,
    named: usize,
}

/// The accepted names of each column in lower case, the first that is there counts.
const FILE: [&str; 6] = ["file name", "filename", "file", "frame", "frame num", "frame number"];
const VISIBILITY: [&str; 3] = ["visibility", "visibility class", "visible"];
const X: [&str; 2] = ["x coordinate", "x"];
const Y: [&str; 2] = ["y coordinate", "y"];

impl Columns {
    fn from_header(header: &Record<'_>) -> Result<Self, String> {
        let names: Vec<String> = header.fields().map(|name| name.to_lowercase().replace(['-', '_'], " ")).collect();
        let find = |accepted: &[&str]| {
            let column = accepted.iter().find_map(|name| names.iter().position(|found| found == name));
            column.ok_or_else(|| Self::missing(accepted[0], header.text))
        };
        Ok(Self {
            file: find(&FILE)?,
            visibility: find(&VISIBILITY)?,
            x: find(&X)?,
            y: find(&Y)?,
            fields: header.fields().count(),
            named: header.filled(),
        })
    }

    fn missing(column: &str, header: &str) -> String {
        let separators = [(';', "semicolons"), ('\t', "tabs"), ('|', "bars")];
        if let Some((_, found)) = separators.iter().find(|(separator, _)| header.matches(*separator).count() >= 3) {
            return format!(
                "fields are separated by {found}, expected commas: save it comma-separated, with a point in decimals \
                 (40.5, not the decimal comma 40,5); found `{}`",
                quoted(header)
            );
        }
        format!(
            "header has no column {column:?}; expected `file name,visibility,x-coordinate,y-coordinate,status`, \
             `File Name,Visibility Class,X,Y,Trajectory Pattern` or `Frame,Visibility,X,Y`, found `{}`",
            quoted(header)
        )
    }

    /// Reads one row; the error says what is wrong with it.
    fn row(&self, record: &Record<'_>) -> Result<Row, (ProblemKind, String)> {
        let unparsable = |detail| (ProblemKind::UnparsableRow, detail);
        if record.fields.is_none() {
            return Err(unparsable(format!("a quotation mark is opened and not closed: `{}`", quoted(record.text))));
        }
        let (found, filled) = (record.fields().count(), record.filled());
        if filled > self.fields {
            let comma = if self.may_be_decimal_commas(record) { " (decimal commas? write 40.5)" } else { "" };
            return Err(unparsable(self.other_count(filled, record, comma)));
        }
        let file_name = record.field(self.file);
        if file_name.is_empty() || file_name.contains(['/', '\\']) {
            let name = last_part(file_name);
            let hint = if name.is_empty() { String::new() } else { format!(" (write {})", shown(name)) };
            return Err(unparsable(format!("`{}` is not the name of a file in this clip{hint}", shown(file_name))));
        }
        let visibility = parse_visibility(record.field(self.visibility)).ok_or_else(|| {
            let found = shown(record.field(self.visibility));
            unparsable(format!("{}: visibility `{found}` is not 0, 1, 2 or 3", shown(file_name)))
        })?;
        let xy = if visibility == Visibility::Absent {
            None
        } else if found < self.named {
            // The end of a row may have been cut off in the middle of a number.
            return Err(unparsable(self.other_count(found, record, "")));
        } else {
            Some(parse_position(file_name, visibility, record.field(self.x), record.field(self.y))?)
        };
        Ok(Row { line: record.line, file_name: file_name.to_owned(), label: Label { visibility, xy } })
    }

    fn other_count(&self, found: usize, record: &Record<'_>, hint: &str) -> String {
        format!("{}, but the header has {}: `{}`{hint}", count(found, "field"), self.fields, quoted(record.text))
    }

    /// Whether a row is longer than the header by the commas of one or two decimals.
    fn may_be_decimal_commas(&self, record: &Record<'_>) -> bool {
        let whole = |field: &str| !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit());
        let numbers = record.fields().skip(self.x.min(self.y)).take_while(|field| whole(field)).count();
        (1..=2).contains(&(record.filled() - self.fields)) && numbers >= 3
    }

    /// Whether the row calls the ball absent and gives a position, other than the usual marks for none.
    fn contradicts(&self, record: &Record<'_>, row: &Row) -> bool {
        let positive = |text: &str| text.parse::<f32>().is_ok_and(|value| value.is_finite() && value > 0.0);
        row.label.visibility == Visibility::Absent && positive(record.field(self.x)) && positive(record.field(self.y))
    }
}

fn parse_visibility(text: &str) -> Option<Visibility> {
    let number: f32 = text.parse().ok()?;
    Visibility::ALL.into_iter().find(|v| *v as u8 as f32 == number)
}

fn parse_position(name: &str, visibility: Visibility, x: &str, y: &str) -> Result<[f32; 2], (ProblemKind, String)> {
    let name = shown(name);
    if x.is_empty() || y.is_empty() {
        let detail = format!("{name}: visibility {} ({}) without coordinates", visibility as u8, visibility.name());
        return Err((ProblemKind::MissingCoordinates, detail));
    }
    let number = |axis: &str, text: &str| match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => {
            let hint = if text.contains(',') { ": write decimals with a point, thousands without a comma" } else { "" };
            Err((ProblemKind::UnparsableRow, format!("{name}: {axis} `{}` is not a number{hint}", shown(text))))
        }
    };
    let xy = [number("x", x)?, number("y", y)?];
    if xy.iter().any(|v| *v < 0.0) {
        let detail = format!("{name}: ({}, {}) is outside the frame", shown(x), shown(y));
        return Err((ProblemKind::OutsideFrame, detail));
    }
    Ok(xy)
}

/// A field in a message.
fn shown(field: &str) -> Cow<'_, str> {
    excerpt(field, 80)
}

/// A line in a message.
fn quoted(line: &str) -> Cow<'_, str> {
    excerpt(line.trim(), 120)
}

/// What follows the last slash or backslash.
fn last_part(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or_default()
}

/// A name without its extension; digits after a point are no extension.
pub(in crate::datasets) fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension)) if extension.contains(|c: char| c.is_ascii_alphabetic()) => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "file name,visibility,x-coordinate,y-coordinate,status\n";

    fn read(bytes: &[u8]) -> (Option<Table>, Vec<String>) {
        let mut problems = Vec::new();
        let table = parse(bytes, &mut |_, line, detail| problems.push(format!("{line}: {detail}")));
        (table, problems)
    }

    /// The labels of a file without problems.
    fn labels(text: &str) -> Vec<(String, Label)> {
        let (table, problems) = read(text.as_bytes());
        assert_eq!(problems, [""; 0], "{text}");
        table.unwrap().rows.into_iter().map(|row| (row.file_name, row.label)).collect()
    }

    /// The only problem of a file.
    fn problem(bytes: &[u8]) -> String {
        let (_, problems) = read(bytes);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].clone()
    }

    fn at(x: f32, y: f32) -> Label {
        Label { visibility: Visibility::Visible, xy: Some([x, y]) }
    }

    fn utf16(text: &str, mark: bool, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mark = mark.then_some('\u{feff}');
        mark.into_iter().chain(text.chars()).flat_map(|c| unit(c as u16)).collect()
    }

    #[test]
    fn what_data_frames_and_spreadsheets_write_is_read() {
        let expected = [("0000.jpg".to_owned(), at(40.0, 60.0)), ("0001.jpg".to_owned(), Label::ABSENT)];
        for text in [
            ",file name,visibility,x-coordinate,y-coordinate,status\n0,0000.jpg,1.0,40.0,60.0,0.0\n1,0001.jpg,0.0,,,\n",
            "file name,visibility,x-coordinate,y-coordinate,status\n0000.jpg,1,40,60,0\n0001.jpg,0\n,,,,\n",
            "file name,visibility,x-coordinate,y-coordinate,status\n0000.jpg,1,40,60,0\n0001.jpg,0,,\n",
            "file name,visibility,x-coordinate,y-coordinate\r\n0000.jpg,1,40,60,\r\n0001.jpg,0,,,\r\n",
            "\u{feff}sep=,\r\n\"file name\", \"visibility\", \"x\", \"y\"\r\r\n\"0000.jpg\", \"1\", \"40\", \"60\"\r\r\n0001.jpg, 0, , ",
            "note,file name,visibility,x,y\n\"a, b\",0000.jpg,1,40,60\n,0001.jpg,0,-1,-1\n",
            "frame,file name,visibility,x,y\n7,0000.jpg,1,40,60\n8,0001.jpg,0,0,0\n",
        ] {
            assert_eq!(labels(text), expected, "{text}");
        }
        let expected = [("0".to_owned(), at(40.0, 60.0)), ("1".to_owned(), Label::ABSENT)];
        assert_eq!(labels("Frame,Visibility,X,Y\n0,1,40,60\n1,0,0,0\n"), expected);
    }

    #[test]
    fn other_encodings_and_line_ends_are_refused_by_name() {
        let text = format!("{HEADER}0000.jpg,1,40,60,0\n");
        for mark in [true, false] {
            for unit in [u16::to_le_bytes as fn(u16) -> [u8; 2], u16::to_be_bytes] {
                let found = problem(&utf16(&text, mark, unit));
                assert!(found.starts_with("1: the text is UTF-16, save as UTF-8"), "{found}");
            }
        }
        let utf32: Vec<u8> = "\u{feff}file".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
        assert!(problem(&utf32).contains("UTF-32"));
        assert!(problem(text.replace('\n', "\r").as_bytes()).starts_with("1: lines end with CR only, save with"));
    }

    #[test]
    fn other_separators_and_decimal_commas_are_refused_by_name() {
        for (separator, name) in [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")] {
            let text = format!("{HEADER}0000.jpg,1,40,60,0\n").replace(',', separator);
            let found = problem(text.as_bytes());
            assert!(found.starts_with(&format!("1: fields are separated by {name}, expected commas")), "{found}");
            assert!(found.contains("decimal comma"), "{found}");
            let told = problem(format!("sep={separator}\n{text}").as_bytes());
            assert!(told.starts_with(&format!("2: fields are separated by {name}")), "{told}");
        }
        let found = problem(format!("{HEADER}0000.jpg,1,40,5,60,25,0\n").as_bytes());
        let expected = "2: 7 fields, but the header has 5: `0000.jpg,1,40,5,60,25,0` (decimal commas? write 40.5)";
        assert_eq!(found, expected);
        let found = problem(format!("{HEADER}0000.jpg,1,\"40,5\",60,0\n").as_bytes());
        assert!(found.contains("x `40,5` is not a number: write decimals with a point"), "{found}");
    }

    #[test]
    fn files_of_another_kind_are_refused_by_what_they_are() {
        for (bytes, found) in [
            (b"PK\x03\x04\x14\0".as_slice(), "a spreadsheet or a ZIP archive"),
            (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
            (b"<!DOCTYPE html>", "a web page"),
            (b"\x00\x05\x16\x07\x00\x02", "what macOS keeps beside a file"),
        ] {
            assert!(problem(bytes).starts_with(&format!("1: this is {found}")), "{}", problem(bytes));
        }
    }

    #[test]
    fn paths_and_other_words_for_visibility_are_refused_row_by_row() {
        for (row, text) in [
            (
                "game1/Clip1/0000.jpg,1,4,6,0",
                "`game1/Clip1/0000.jpg` is not the name of a file in this clip (write 0000.jpg)",
            ),
            (r"C:\a\0000.jpg,1,4,6,0", r"`C:\a\0000.jpg` is not the name of a file in this clip (write 0000.jpg)"),
            ("0000.jpg,True,4,6,0", "0000.jpg: visibility `True` is not 0, 1, 2 or 3"),
            ("0000.jpg,-1,-1,-1,0", "0000.jpg: visibility `-1` is not 0, 1, 2 or 3"),
            ("0000.jpg,,,,", "0000.jpg: visibility `` is not 0, 1, 2 or 3"),
            ("0000.jpg,1,4,6", "4 fields, but the header has 5: `0000.jpg,1,4,6`"),
        ] {
            let (table, problems) = read(format!("{HEADER}{row}\n").as_bytes());
            assert_eq!(problems, [format!("2: {text}")]);
            assert!(table.unwrap().skipped.contains("0000"), "{row}");
        }
    }

    #[test]
    fn a_quotation_mark_that_is_not_closed_costs_its_line_and_lines_are_counted_as_an_editor_does() {
        let text = format!("{HEADER}\r\n\"0000.jpg,1,40,60,0\r\n\"0001.jpg\",1,40,60,0\r\n\r\n0002.jpg,x,1,1,0\r\n");
        let (table, problems) = read(text.as_bytes());
        let expected = [
            "3: a quotation mark is opened and not closed: `\"0000.jpg,1,40,60,0`",
            "6: 0002.jpg: visibility `x` is not 0, 1, 2 or 3",
        ];
        assert_eq!(problems, expected);
        let rows = table.unwrap().rows;
        assert_eq!((rows.len(), rows[0].line, rows[0].file_name.as_str()), (1, 4, "0001.jpg"));
    }

    #[test]
    fn whatever_a_file_holds_a_message_stays_short() {
        let long = "x".repeat(1 << 20);
        for text in [
            long.clone(),
            format!("{HEADER}{long}"),
            format!("{HEADER}{long},{long},1,1,1"),
            format!("{HEADER}a.jpg,1,{long},1,1"),
            format!("{HEADER}\"{}", "\n,".repeat(1 << 10)),
            format!("{HEADER}{}", ",".repeat(1 << 16) + "1"),
        ] {
            for problem in read(text.as_bytes()).1 {
                assert!(problem.len() < 600, "{} bytes", problem.len());
            }
        }
    }

    #[test]
    fn positions_that_are_not_used_are_counted() {
        let (table, _) =
            read(format!("{HEADER}0.jpg,0,40,60,0\n1.jpg,0,0,0,0\n2.jpg,0,-1,-1,\n3.jpg,1,-1,-1,0\n").as_bytes());
        let table = table.unwrap();
        assert_eq!((table.absent_with_position, table.negative), (1, 1));
    }
}
