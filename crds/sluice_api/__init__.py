"""The shared language of Sluice: the five kinds and every file that one part writes and another reads."""
