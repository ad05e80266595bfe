"""The course: lessons, exercises, and an examiner that trains with the functions of students.

exercise.py     the parts of an exercise
exercises/      the exercises, one file for each topic
oracle.py       the right answers: PPO in plain float64 numbers
answers.py      the process that runs a student's file
examiner.py     compares what it returned with the right answers and with known mistakes
in_place.py     training with a student's function in place of the package's
tasks.py        the environments for that training
"""
