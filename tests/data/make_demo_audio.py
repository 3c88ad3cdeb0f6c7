"""Composes, synthesises and encodes the demo's music: appliance/clients/audio/demo.mp3.

    .venv/bin/python tests/data/make_demo_audio.py            # needs ffmpeg with libmp3lame; takes about 15 s
    .venv/bin/python tests/data/make_demo_audio.py OUT.mp3 --wav OUT.wav

"Harbour, Early": 24 bars in D major at 76 beats a minute: electric piano, vibraphone, nylon plucks, bass, pad, brushes.
Written and rendered for this project, from nothing but numpy; free as the project is (MIT).

Why the loop has no seam:
- everything is rendered on a circle: a note or an echo that runs past the end comes in again at the start;
- the circle is a whole number of MP3 frames (FRAMES * 1152 samples);
- three rounds are encoded and the frames of the middle one are kept, so the overlap of the first frame's transform is
  that of the last frame. The bit reservoir is off: every frame stands alone, and so does a cut at any frame (a rewind).
The same numpy and ffmpeg give the same bytes; other versions give the same music.
"""

from __future__ import annotations

import argparse
import subprocess
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]  # (n,) mono or (n, 2) stereo, full scale is 1.0

OUTPUT = Path(__file__).resolve().parents[2] / "appliance" / "clients" / "audio" / "demo.mp3"
RATE = 44_100
SAMPLES_PER_FRAME = 1152
FRAMES = 2904  # 75.86 s; has only small prime factors, which the Fourier transforms of the whole circle like
LENGTH = FRAMES * SAMPLES_PER_FRAME
BARS = 24
BEAT_S = LENGTH / RATE / (BARS * 4)
BIT_RATE_KBIT = 128
LOUDNESS_RMS = 0.131  # of the mix: -16 LUFS for this instrumentation (measured with ffmpeg's ebur128)
SEED = 20240611

SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class Hit(NamedTuple):
    """One note or stroke: when (beats from the start of the piece), for how long (beats), which, and how hard (0..1)."""

    beat: float
    beats: float
    note: str
    velocity: float


CHORDS = {  # bass note, then the hand above it, voiced so that neighbours move by steps
    "Dmaj9": ("D2", "F#3 A3 C#4 E4"),
    "Bm9": ("B1", "F#3 A3 C#4 D4"),
    "Gmaj9": ("G1", "F#3 A3 B3 D4"),
    "A13sus": ("A1", "G3 B3 D4 F#4"),
    "D/F#": ("F#2", "F#3 A3 C#4 E4"),
    "Em9": ("E2", "G3 B3 D4 F#4"),
    "A9sus": ("A1", "G3 B3 D4 E4"),
    "A9": ("A1", "G3 B3 C#4 E4"),
    "Gmaj7": ("G1", "G3 B3 D4 F#4"),
    "F#m7": ("F#2", "A3 C#4 E4 F#4"),
}
VERSE = ["Dmaj9", "Bm9", "Gmaj9", "A13sus", "D/F#", "Bm9", "Em9", "A9sus"]
BRIDGE = ["Gmaj7", "F#m7", "Em9", "Dmaj9", "Gmaj7", "F#m7", "Em9", "A9"]
HARMONY = [*VERSE, *BRIDGE, *VERSE]

# The tune, bar by bar: "beat:note:beats", the beat counted from the bar's start.
TUNE_VERSE = [
    "0.5:A4:.5 1:D5:.5 1.5:E5:.5 2:F#5:2",
    "0.5:F#5:.5 1:E5:.5 1.5:D5:1 2.5:B4:1.5",
    "0.5:B4:.5 1:D5:.5 1.5:E5:.5 2:A5:1 3:F#5:1",
    "0:E5:3",
    "0.5:A4:.5 1:D5:.5 1.5:E5:.5 2:F#5:1.5 3.5:A5:.5",
    "0:B5:1.5 1.5:A5:.5 2:F#5:1.5 3.5:E5:.5",
    "0:F#5:1 1:G5:.5 1.5:F#5:.5 2:D5:1.5 3.5:B4:.5",
    "0:E5:2 2:D5:.5 2.5:E5:1.5",
]
TUNE_BRIDGE = [
    "0:B5:1.5 1.5:A5:.5 2:F#5:2",
    "0:A5:1.5 1.5:E5:.5 2:C#5:2",
    "0:G5:1 1:F#5:.5 1.5:D5:1 2.5:E5:1.5",
    "0:F#5:3",
    "0:B5:1.5 1.5:D6:.5 2:A5:2",
    "0:A5:1 1:F#5:.5 1.5:E5:.5 2:C#5:2",
    "0.5:B4:.5 1:E5:.5 1.5:F#5:.5 2:G5:1 3:F#5:1",
    "0:E5:2 2:B4:1 3:C#5:1",
]
TUNE_LAST = [
    "0:D5:1 1.5:E5:.5 2:F#5:2",
    "0.5:F#5:.5 1:E5:.5 1.5:D5:1 2.5:B4:1.5",
    "0.5:B4:.5 1:D5:.5 1.5:E5:.5 2:A5:1 3:F#5:1",
    "0:E5:1.5 2:F#5:.5 2.5:E5:1.5",
    "0.5:A4:.5 1:D5:.5 1.5:E5:.5 2:F#5:1.5 3.5:A5:.5",
    "0:B5:1.5 1.5:A5:.5 2:F#5:2",
    "0.5:D5:.5 1:E5:.5 1.5:F#5:.5 2:G5:1 3:F#5:1",
    "0:E5:1.5 1.5:D5:.5 2:E5:1 3:B4:1",
]
TUNE = [*TUNE_VERSE, *TUNE_BRIDGE, *TUNE_LAST]


# ---------------------------------------------------------------- the score


def tune() -> list[Hit]:
    """The melody; the first note of a group a little firmer than the others."""
    hits = []
    for bar, line in enumerate(TUNE):
        for index, word in enumerate(line.split()):
            beat, note, beats = word.split(":")
            hits.append(Hit(bar * 4 + float(beat), float(beats), note, 0.8 if index == 0 else 0.68))
    return hits


def piano_chords() -> list[Hit]:
    """Each chord rolled softly on one, and touched again after the third beat in every other bar."""
    hits = []
    for bar, name in enumerate(HARMONY):
        notes = CHORDS[name][1].split()
        hits += [Hit(bar * 4 + 0.03 * i, 3.6, note, 0.62 - 0.03 * i) for i, note in enumerate(notes)]
        if bar % 2:
            hits += [Hit(bar * 4 + 2.5 + 0.02 * i, 1.4, note, 0.36) for i, note in enumerate(notes[1:])]
    return hits


def plucked_figures() -> list[Hit]:
    """Broken chords in eighths an octave up; they rest in the first four bars of each part, so that the tune can start."""
    pattern = [0, 2, 1, 3, 2, 1, 3, 2]
    hits = []
    for bar, name in enumerate(HARMONY):
        notes = CHORDS[name][1].split()
        strength = 0.30 if bar % 8 < 4 else 0.42
        for step, index in enumerate(pattern):
            if bar % 8 < 4 and step % 2 == 0 and step != 0:
                continue
            accent = 1.2 if step in (0, 3) else 1.0
            hits.append(Hit(bar * 4 + step * 0.5, 1.5, octave_up(notes[index]), strength * accent))
    return hits


def bass_line() -> list[Hit]:
    """The root on one, again before three, and a step towards the next root in every fourth bar."""
    hits = []
    for bar, name in enumerate(HARMONY):
        root = CHORDS[name][0]
        hits.append(Hit(bar * 4, 2.3, root, 0.8))
        hits.append(Hit(bar * 4 + 2.5, 1.3, root, 0.6))
    return hits


def pad_chords() -> list[Hit]:
    """The chord's upper voices, held over the bar line."""
    return [
        Hit(bar * 4, 4.2, note, 0.5) for bar, name in enumerate(HARMONY) for note in CHORDS[name][1].split()[1:]
    ]


def octave_up(note: str) -> str:
    """The same note name one octave higher."""
    return note[:-1] + str(int(note[-1]) + 1)


def frequency_hz(note: str) -> float:
    """The pitch of a name such as "F#4", equal temperament, A4 = 440 Hz."""
    steps = SEMITONES[note[0]] + note.count("#") + 12 * (int(note[-1]) - 4) - 9
    return float(440.0 * 2.0 ** (steps / 12))


# ---------------------------------------------------------------- the instruments (mono, amplitude about 1)


def clock(seconds: float) -> Samples:
    """The times of the samples of a sound of this length."""
    return np.arange(int(seconds * RATE)) / RATE


def envelope(t: Samples, attack_s: float, hold_s: float, release_s: float) -> Samples:
    """Rises in a raised cosine, stays, and falls in one after hold_s; both ends are zero: no clicks."""
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(t / attack_s, 0, 1))
    fall = 0.5 + 0.5 * np.cos(np.pi * np.clip((t - hold_s) / release_s, 0, 1))
    return np.asarray(rise * fall)


def electric_piano(hz: float, hold_s: float, velocity: float) -> Samples:
    """Two FM pairs: the body (1:1), mellower as it fades, and the tine (1:14), heard at the stroke only."""
    t = clock(hold_s + 0.8)
    phase = 2 * np.pi * hz * t
    index = (0.5 + 1.6 * velocity) * np.exp(-t / 0.7)
    body = np.sin(phase + index * np.sin(phase)) * np.exp(-t / 1.9)
    tine = np.sin(phase + 0.35 * np.sin(14 * phase)) * np.exp(-t / 0.09)
    return np.asarray((body + 0.2 * velocity * tine) * envelope(t, 0.006, hold_s, 0.75))


def vibraphone(hz: float, hold_s: float, velocity: float) -> Samples:
    """A bar's partials 1, 4 and 10, the higher the shorter, with the slow motor's tremolo."""
    t = clock(hold_s + 2.2)
    tone = np.sin(2 * np.pi * hz * t) * np.exp(-t / 1.5)
    tone += 0.28 * velocity * np.sin(2 * np.pi * 3.98 * hz * t) * np.exp(-t / 0.38)
    tone += 0.05 * velocity * np.sin(2 * np.pi * 9.9 * hz * t) * np.exp(-t / 0.06)
    tremolo = 1 - 0.14 * (0.5 - 0.5 * np.cos(2 * np.pi * 4.6 * t))
    return np.asarray(tone * tremolo * envelope(t, 0.004, hold_s + 0.5, 1.6))


def nylon_string(hz: float, hold_s: float, velocity: float) -> Samples:
    """A string plucked a quarter in: harmonics that die the faster the higher they are."""
    t = clock(hold_s + 0.9)
    tone = np.zeros_like(t)
    for n in range(1, 15):
        if n * hz > 9000:
            break
        strength = abs(np.sin(np.pi * n * 0.27)) / n**1.55
        stretched = n * hz * np.sqrt(1 + 0.00012 * n * n)
        tone += strength * np.sin(2 * np.pi * stretched * t) * np.exp(-t * (1.1 + 0.85 * n))
    return np.asarray(tone * envelope(t, 0.003, hold_s, 0.85))


def bass(hz: float, hold_s: float, velocity: float) -> Samples:
    """A round finger bass: a fundamental, and enough second and third to be heard on small speakers."""
    t = clock(hold_s + 0.25)
    tone = np.sin(2 * np.pi * hz * t) * np.exp(-t / 2.2)
    tone += 0.36 * np.sin(4 * np.pi * hz * t) * np.exp(-t / 0.9)
    tone += 0.15 * np.sin(6 * np.pi * hz * t) * np.exp(-t / 0.35)
    return np.asarray(tone * envelope(t, 0.012, hold_s, 0.22))


def pad(hz: float, hold_s: float, velocity: float) -> Samples:
    """Three slightly detuned voices with soft harmonics, swelling in and out."""
    t = clock(hold_s + 2.0)
    tone = np.zeros_like(t)
    for voice, detune in enumerate((-0.0022, 0.0, 0.0025)):
        for n in range(1, 6):
            tone += np.sin(2 * np.pi * n * hz * (1 + detune) * t + voice * 2.1 + n) / n**2.1 / 3
    return np.asarray(tone * envelope(t, 1.3, hold_s, 1.9))


def soft_drum() -> Samples:
    """A felt beater: a short fall from 95 to 48 Hz."""
    t = clock(0.42)
    hz = 48 + 47 * np.exp(-t / 0.035)
    return np.asarray(np.sin(2 * np.pi * np.cumsum(hz) / RATE) * np.exp(-t / 0.12) * envelope(t, 0.004, 0.2, 0.2))


def brush(noise: Samples, fade_s: float) -> Samples:
    """Filtered noise, 2.5 to 9 kHz: a brush on a cymbal (short) or a snare skin (longer)."""
    t = clock(len(noise) / RATE)[: len(noise)]
    spectrum = np.fft.rfft(noise)
    hz = np.fft.rfftfreq(len(noise), 1 / RATE)
    spectrum *= 1 / (1 + (2500 / np.maximum(hz, 1)) ** 4) / (1 + (hz / 9000) ** 6)
    shaped = np.fft.irfft(spectrum, len(noise)) * envelope(t, 0.006, fade_s * 3, fade_s * 2) * np.exp(-t / fade_s)
    return np.asarray(shaped / np.max(np.abs(shaped)))


# ---------------------------------------------------------------- the circle


class Circle:
    """A stereo track whose end is its start, (LENGTH, 2)."""

    def __init__(self) -> None:
        self.samples: Samples = np.zeros((LENGTH, 2))

    def add(self, sound: Samples, at_s: float, gain: float, pan: float) -> None:
        """Adds a mono sound at a time; pan -1 (left) .. 1 (right), equal power."""
        places = (round(at_s * RATE) + np.arange(len(sound))) % LENGTH
        angle = (pan + 1) * np.pi / 4
        self.samples[places, 0] += sound * gain * np.cos(angle)
        self.samples[places, 1] += sound * gain * np.sin(angle)

    def filtered(self, response: NDArray[np.complex128] | Samples) -> Circle:
        """This track through a filter given for each frequency of the circle: (LENGTH // 2 + 1, 1 or 2)."""
        result = Circle()
        result.samples = np.fft.irfft(np.fft.rfft(self.samples, axis=0) * response, LENGTH, axis=0)
        return result


def room() -> NDArray[np.complex128]:
    """The frequency response of a wooden hall: noise that decays in 2.4 s, above 4 kHz in 0.8 s."""
    random = np.random.default_rng(SEED + 1)
    t = clock(3.0)
    hz = np.fft.rfftfreq(len(t), 1 / RATE)
    echoes = np.zeros((LENGTH, 2))
    start = int(0.024 * RATE)
    for low_hz, high_hz, t60_s in ((120, 700, 2.4), (700, 2000, 2.0), (2000, 4000, 1.4), (4000, 9000, 0.8)):
        for side in (0, 1):
            spectrum = np.fft.rfft(random.standard_normal(len(t)))
            spectrum *= (hz >= low_hz) & (hz < high_hz)
            band = np.fft.irfft(spectrum, len(t)) * 10 ** (-3 * t / t60_s)
            echoes[start : start + len(t), side] += band * envelope(t, 0.01, 2.5, 0.45)
    echoes /= np.sqrt(np.sum(echoes**2, axis=0))
    return np.asarray(np.fft.rfft(echoes, axis=0))


def play(circle: Circle, hits: list[Hit], instrument: object, gain: float, spread: float, seed: int) -> None:
    """Plays a part: a few milliseconds and a few per cent off, as hands are; higher notes further to one side."""
    assert callable(instrument)
    random = np.random.default_rng(SEED + seed)
    for hit in hits:
        hz = frequency_hz(hit.note)
        sound = instrument(hz, hit.beats * BEAT_S, hit.velocity)
        at_s = hit.beat * BEAT_S + random.normal(0, 0.004)
        pan = float(np.clip(spread * np.log2(hz / 300), -0.7, 0.7))
        circle.add(sound, at_s, gain * hit.velocity * (1 + random.normal(0, 0.04)), pan)


def play_brushes(circle: Circle) -> None:
    """Felt drum on one and before three, a soft skin on two and four, a cymbal in swung eighths.

    The bridge begins with the cymbal alone, so that the piece has somewhere to come back from.
    """
    random = np.random.default_rng(SEED + 9)
    for bar in range(BARS):
        resting = 8 <= bar < 12
        for beat, gain in ((0.0, 0.34), (2.5, 0.22)):
            circle.add(soft_drum(), (bar * 4 + beat) * BEAT_S, 0.0 if resting else gain, 0.0)
        for beat in (1.0, 3.0):
            skin = brush(random.standard_normal(int(0.4 * RATE)), 0.075)
            circle.add(skin, (bar * 4 + beat) * BEAT_S, 0.0 if resting else 0.075, 0.12)
        for eighth in range(8):
            swung = (eighth // 2) + (0.56 if eighth % 2 else 0.0)
            cymbal = brush(random.standard_normal(int(0.2 * RATE)), 0.03)
            gain = (0.030 if eighth % 2 else 0.046) * (1 + random.normal(0, 0.15))
            circle.add(cymbal, (bar * 4 + swung) * BEAT_S, gain, -0.25)


def mix() -> Samples:
    """The whole piece, (LENGTH, 2), peaks below 0.85, end and start joined."""
    dry, wet = Circle(), Circle()
    parts = (
        (tune(), vibraphone, 0.26, 0.10, 0.55),
        (piano_chords(), electric_piano, 0.20, 0.22, 0.30),
        (plucked_figures(), nylon_string, 0.42, -0.30, 0.45),
        (pad_chords(), pad, 0.085, 0.5, 0.8),
        (bass_line(), bass, 0.27, 0.0, 0.04),
    )
    for number, (hits, instrument, gain, spread, echo) in enumerate(parts):
        part = Circle()
        play(part, hits, instrument, gain, spread, number)
        dry.samples += part.samples
        wet.samples += part.samples * echo
    play_brushes(dry)
    hall = wet.filtered(room())
    dry.samples += 0.55 * hall.samples
    return master(dry)


def master(track: Circle) -> Samples:
    """Takes off what is below 32 Hz and above 14.5 kHz, lifts the treble by 3.5 dB, sets the loudness, rounds peaks."""
    hz = np.fft.rfftfreq(LENGTH, 1 / RATE)
    shape = 1 / (1 + (32 / np.maximum(hz, 0.01)) ** 4) / (1 + (hz / 14500) ** 10)
    shape *= 1 + 0.5 / (1 + (1400 / np.maximum(hz, 0.01)) ** 2)
    samples = track.filtered(shape[:, None]).samples
    samples *= LOUDNESS_RMS / np.sqrt(np.mean(samples**2))
    knee = 0.45
    over = np.maximum(np.abs(samples) - knee, 0)
    rounded = np.sign(samples) * (knee + (0.85 - knee) * np.tanh(over / (0.85 - knee)))
    return np.where(over > 0, rounded, samples)


# ---------------------------------------------------------------- to MP3


def pcm(samples: Samples) -> bytes:
    """16-bit little-endian, interleaved, with triangular dither."""
    random = np.random.default_rng(SEED + 2)
    dither = random.random(samples.shape) - random.random(samples.shape)
    return np.clip(np.round(samples * 32767 + dither), -32768, 32767).astype("<i2").tobytes()


def encode(audio: bytes) -> bytes:
    """MP3 of raw PCM by ffmpeg's libmp3lame: constant bit rate, joint stereo, no tags, every frame on its own."""
    command = ["ffmpeg", "-v", "error", "-f", "s16le", "-ar", str(RATE), "-ac", "2", "-i", "pipe:0"]
    command += ["-c:a", "libmp3lame", "-b:a", f"{BIT_RATE_KBIT}k", "-joint_stereo", "1", "-reservoir", "0"]
    command += ["-write_xing", "0", "-id3v2_version", "0", "-write_id3v1", "0", "-f", "mp3", "pipe:1"]
    return subprocess.run(command, input=audio, stdout=subprocess.PIPE, check=True).stdout


def frames_of(mp3: bytes) -> list[bytes]:
    """The frames of what `encode` made: MPEG 1 layer III at one rate, so that only the padding bit varies."""
    frames, at = [], 0
    while at < len(mp3):
        if mp3[at : at + 2] != b"\xff\xfb":
            raise ValueError(f"no frame at byte {at}")
        size = 144_000 * BIT_RATE_KBIT // RATE + (mp3[at + 2] >> 1 & 1)
        frames.append(mp3[at : at + size])
        at += size
    return frames


def main() -> None:
    """Writes the MP3, and the circle as a WAV file when asked."""
    arguments = argparse.ArgumentParser(description="Make the demo's music.")
    arguments.add_argument("output", nargs="?", type=Path, default=OUTPUT)
    arguments.add_argument("--wav", type=Path)
    given = arguments.parse_args()
    audio = pcm(mix())
    if given.wav:
        with wave.open(str(given.wav), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(audio)
    frames = frames_of(encode(audio * 3))[FRAMES : 2 * FRAMES]
    given.output.write_bytes(b"".join(frames))


if __name__ == "__main__":
    main()
