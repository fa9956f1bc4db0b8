"""Preparation of public corpora and of anyone's own recordings."""

from __future__ import annotations

from eqssl_speech.data.corpora.debian_speech import prepare_debian_speech as prepare_debian_speech
from eqssl_speech.data.corpora.folder import prepare_folder as prepare_folder
from eqssl_speech.data.corpora.report import BadRecording as BadRecording
from eqssl_speech.data.corpora.report import PrepareReport as PrepareReport
from eqssl_speech.data.corpora.report import SourceSummary as SourceSummary
