//! `os_list.json`: an image as Raspberry Pi Imager offers it, for its setting "content repository" or `--repo`.
//!
//! Source: Raspberry Pi Imager's `doc/json-schema/os-list-schema.json`, `doc/schema-notes.md` and
//! `doc/os_customisation_formats.md`. Imager refuses to finish a card whose content is not `extract_sha256`.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::recipe::types::{Board, Format, Model, Recipe};
use crate::units::Digest;

/// Name of the list beside an image.
pub(crate) const FILE_NAME: &str = "os_list.json";
/// Formats that Imager unpacks, by how many versions of it do; of an image in several the first is offered.
pub(crate) const FORMATS: [Format; 3] = [Format::ImgXz, Format::ImgGz, Format::ImgZst];
/// Shown where the recipe names no icon: the field is required, and a list that is published needs no second file then.
const ICON: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40"><rect width="40" height="40" rx="8" fill="#1f2937"/><path d="M10 28h20v4H10zM18 8h4v8h6l-8 9-8-9h6z" fill="#fff"/></svg>"##;

/// A compressed image that is offered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Download<'a> {
    /// File name.
    pub file: &'a str,
    /// Bytes of the file.
    pub size: u64,
    /// Digest of the file.
    pub sha256: Digest,
    /// Bytes of the raw image in it.
    pub raw_size: u64,
    /// Digest of the raw image in it.
    pub raw_sha256: Digest,
}

/// Is there a list for this recipe's images?
pub(crate) fn wanted(recipe: &Recipe) -> bool {
    let imager = match recipe.target.board {
        Board::RaspberryPi => true,
        Board::Uefi | Board::Bios => false,
    };
    imager && FORMATS.iter().any(|format| recipe.target.formats.contains(format))
}

/// The list, with this one image in it. `epoch` is the image's time stamp, seconds since 1970.
///
/// # Errors
/// When the time stamp is none.
pub(crate) fn document(recipe: &Recipe, download: &Download<'_>, epoch: u64) -> Result<Vec<u8>> {
    let date = OffsetDateTime::from_unix_timestamp(i64::try_from(epoch)?)?
        .format(format_description!("[year]-[month]-[day]"))
        .context("writing the image's date")?;
    let models = &recipe.target.raspberry_pi.models;
    let mut tags: Vec<&str> = models.iter().map(|model| tag(*model)).collect();
    tags.sort_unstable();
    tags.dedup();
    let publish = &recipe.publish;
    let mut entry = json!({
        "name": recipe.name,
        "description": recipe.description,
        "icon": publish.icon.clone().unwrap_or_else(icon),
        "url": address(publish.url.as_deref(), download.file),
        "extract_size": download.raw_size,
        "extract_sha256": download.raw_sha256,
        "image_download_size": download.size,
        "image_download_sha256": download.sha256,
        "release_date": date,
        "devices": tags,
        // What Imager would ask (name, network, account) is the recipe's and the identity's to say.
        "init_format": "none",
        "architecture": "armv8",
    });
    if let (Some(website), Some(entry)) = (&publish.website, entry.as_object_mut()) {
        entry.insert("website".into(), json!(website));
    }
    // Without this list Imager 2 offers no device to choose, and then no image that is for certain devices.
    let devices: Vec<Value> = models.iter().enumerate().map(|(at, model)| device(*model, at == 0)).collect();
    let document = json!({ "imager": { "devices": devices }, "os_list": [entry] });
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    Ok(text)
}

/// The tag by which Imager matches devices and images: several models share one.
fn tag(model: Model) -> &'static str {
    match model {
        Model::Pi3 | Model::Zero2 => "pi3-64bit",
        Model::Pi4 => "pi4-64bit",
        Model::Pi5 => "pi5-64bit",
    }
}

fn device(model: Model, default: bool) -> Value {
    let (name, description) = match model {
        Model::Pi3 => ("Raspberry Pi 3", "Model B, B+"),
        Model::Pi4 => ("Raspberry Pi 4", "Model B, 400, Compute Module 4"),
        Model::Pi5 => ("Raspberry Pi 5", "5, 500, Compute Module 5"),
        Model::Zero2 => ("Raspberry Pi Zero 2 W", "Zero 2 W"),
    };
    json!({
        "name": name,
        "description": description,
        "icon": icon(),
        "tags": [tag(model)],
        "default": default,
        "matching_type": "exclusive",
        "capabilities": [],
    })
}

fn icon() -> String {
    format!("data:image/svg+xml;base64,{}", STANDARD.encode(ICON))
}

/// The file below the folder that the recipe publishes to; without one, only its name.
fn address(folder: Option<&str>, file: &str) -> String {
    match folder {
        Some(folder) => format!("{}/{file}", folder.trim_end_matches('/')),
        None => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Download, document, wanted};
    use crate::recipe::types::{Board, Format, Model, Recipe};
    use crate::units::Digest;

    fn recipe(publish: &str) -> Recipe {
        let text = format!(
            "name = \"gateway\"\ndescription = \"A gateway\"\n\
             [distribution]\nid = \"debian\"\nrelease = \"12\"\ncodename = \"bookworm\"\n[archives]\n\
             [target]\narch = \"aarch64\"\nboard = \"raspberry-pi\"\nformats = [\"img.zst\"]\n\
             [target.raspberry_pi]\nmodels = [\"4\", \"3\", \"zero-2\"]\n{publish}"
        );
        toml::from_str(&text).expect("a recipe")
    }

    fn list(recipe: &Recipe) -> serde_json::Value {
        let download = Download {
            file: "gateway.img.zst",
            size: 7,
            sha256: Digest::of("compressed"),
            raw_size: 70,
            raw_sha256: Digest::of("raw"),
        };
        serde_json::from_slice(&document(recipe, &download, 1_700_000_000).expect("a list")).expect("JSON")
    }

    #[test]
    fn an_entry_says_what_imager_checks() {
        let list = list(&recipe(
            "[publish]\nurl = \"https://plant.example/images/\"\nwebsite = \"https://plant.example\"\n",
        ));
        let entry = &list["os_list"][0];
        assert_eq!(entry["url"], "https://plant.example/images/gateway.img.zst");
        assert_eq!((&entry["extract_size"], &entry["image_download_size"]), (&70.into(), &7.into()));
        assert_eq!(entry["extract_sha256"], Digest::of("raw").to_string());
        assert_eq!(entry["image_download_sha256"], Digest::of("compressed").to_string());
        assert_eq!(
            (&entry["release_date"], &entry["website"]),
            (&"2023-11-14".into(), &"https://plant.example".into())
        );
        assert_eq!(entry["devices"], serde_json::json!(["pi3-64bit", "pi4-64bit"]));
        assert!(entry["icon"].as_str().expect("an icon").starts_with("data:image/svg+xml;base64,"));
        let devices = list["imager"]["devices"].as_array().expect("devices");
        assert_eq!(devices.len(), 3);
        assert_eq!((&devices[0]["name"], &devices[0]["default"]), (&"Raspberry Pi 4".into(), &true.into()));
    }

    #[test]
    fn without_an_address_the_file_is_named() {
        let list = list(&recipe(""));
        assert_eq!(list["os_list"][0]["url"], "gateway.img.zst");
        assert_eq!(list["os_list"][0].get("website"), None);
    }

    #[test]
    fn only_for_compressed_images_of_a_raspberry_pi() {
        let mut recipe = recipe("");
        assert!(wanted(&recipe));
        recipe.target.formats = vec![Format::Img, Format::Vhd];
        assert!(!wanted(&recipe));
        recipe.target.formats.push(Format::ImgXz);
        recipe.target.board = Board::Uefi;
        recipe.target.raspberry_pi.models = vec![Model::Pi5];
        assert!(!wanted(&recipe));
    }
}
