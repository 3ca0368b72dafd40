//! The Raspberry Pi's settings, and Wi-Fi.

use super::Found;
use crate::recipe::types::{Board, RaspberryPi, Recipe, Wifi};
use crate::units::Arch;

/// The firmware ignores what is beyond this in a line of config.txt.
const LONGEST_LINE: usize = 98;
/// Bytes of the longest name of a wireless network (IEEE 802.11).
const LONGEST_SSID: usize = 32;
/// MiB that the GPU of models 3 and Zero 2 can have.
const GPU_MEMORY: std::ops::RangeInclusive<u32> = 16..=512;

pub(super) fn check(recipe: &Recipe, found: &mut Found<'_>) {
    match recipe.target.board {
        Board::RaspberryPi => raspberry_pi(recipe, found),
        Board::Uefi => no_card(recipe, "uefi", found),
        Board::Bios => bios(recipe, found),
    }
    if let Some(wifi) = &recipe.network.wifi {
        self::wifi(wifi, found);
    }
}

fn bios(recipe: &Recipe, found: &mut Found<'_>) {
    if recipe.target.arch != Arch::X86_64 {
        let message = format!("the board `bios` is not for {}: only PCs have a BIOS", recipe.target.arch);
        found.add("target/arch", message, "arch = \"x86_64\" in [target], or board = \"uefi\"");
    }
    no_card(recipe, "bios", found);
}

/// What only the Raspberry Pi has.
fn no_card(recipe: &Recipe, board: &str, found: &mut Found<'_>) {
    let expected = "board = \"raspberry-pi\" in [target]";
    if recipe.target.raspberry_pi != RaspberryPi::default() {
        let message =
            format!("`target.raspberry_pi` is only for the board `raspberry-pi`, and this one is `{board}`");
        found.add("target/raspberry_pi", message, expected);
    }
    if recipe.network.wifi.is_some() {
        found.add("network/wifi", "`network.wifi` works on the board `raspberry-pi` only", expected);
    }
}

fn raspberry_pi(recipe: &Recipe, found: &mut Found<'_>) {
    let pi = &recipe.target.raspberry_pi;
    if recipe.target.arch != Arch::Aarch64 {
        let message = format!("the board `raspberry-pi` is not for {}", recipe.target.arch);
        found.add("target/arch", message, "arch = \"aarch64\" in [target]");
    }
    if pi.models.is_empty() {
        let message = "`target.raspberry_pi.models` is empty";
        found.add("target/raspberry_pi/models", message, "the models to boot on: `3`, `4`, `5`, `zero-2`");
    }
    if let Some(size) = pi.gpu_memory.filter(|size| !GPU_MEMORY.contains(size)) {
        found.bad("target/raspberry_pi/gpu_memory", &size.to_string(), "16 to 512 (MiB)");
    }
    for (list, prefix, texts) in
        [("overlays", "dtoverlay=", &pi.overlays), ("parameters", "dtparam=", &pi.parameters)]
    {
        for (at, text) in texts.iter().enumerate() {
            let good = !text.is_empty()
                && text.chars().all(|c| c.is_ascii_graphic())
                && prefix.len() + text.len() <= LONGEST_LINE;
            let expected = format!(
                "a name and parameters as after `{prefix}` in config.txt, without blanks, {} characters at most",
                LONGEST_LINE - prefix.len()
            );
            found.check(good, &format!("target/raspberry_pi/{list}/{at}"), text, &expected);
        }
    }
    for (at, line) in pi.config.iter().enumerate() {
        let good = line.chars().all(|c| c == ' ' || c.is_ascii_graphic()) && line.len() <= LONGEST_LINE;
        let expected = format!(
            "one line of config.txt, of at most {LONGEST_LINE} characters: the firmware ignores the rest"
        );
        found.check(good, &format!("target/raspberry_pi/config/{at}"), line, &expected);
    }
}

/// A country that is still empty is for `check`: a shipped recipe cannot know it.
fn wifi(wifi: &Wifi, found: &mut Found<'_>) {
    let known = wifi.country.is_empty() || COUNTRIES.split_whitespace().any(|code| code == wifi.country);
    let expected = "the country's two capital letters (ISO 3166-1), for example `DE`";
    found.check(known, "network/wifi/country", &wifi.country, expected);
    if let Some(ssid) = &wifi.ssid {
        let good = (1..=LONGEST_SSID).contains(&ssid.len()) && !ssid.contains(char::is_control);
        found.check(good, "network/wifi/ssid", ssid, "the network's name, 1 to 32 bytes");
    }
    if wifi.key_file.is_some() && wifi.ssid.is_none() {
        let message = "`network.wifi.key_file` stands without `ssid`";
        let expected = "both, or the key with the identity: it is derived together with the network's name";
        found.add("network/wifi/key_file", message, expected);
    }
}

/// ISO 3166-1 alpha-2, as assigned in 2024.
const COUNTRIES: &str = "\
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC \
    CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD \
    GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH \
    KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW \
    MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC \
    SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY \
    UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

#[cfg(test)]
mod tests {
    use super::COUNTRIES;

    #[test]
    fn every_country_is_there_once() {
        let mut all: Vec<&str> = COUNTRIES.split_whitespace().collect();
        assert_eq!(all.len(), 249);
        assert!(all.iter().all(|code| code.len() == 2 && code.chars().all(|c| c.is_ascii_uppercase())));
        all.dedup();
        assert_eq!(all.len(), 249);
    }
}
